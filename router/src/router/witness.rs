//! Witnessing in a router ([`metering::witness`]): what the ledger has shown it is shown to neighbours, and what it has shown
//! them is held against that. Where the two do not belong together, the ledger has told two stories, and the owner is told.

use std::time::{Duration, Instant};

use ledger_client::{Comparison, Note, UnixTime, WitnessKey, witness};
use metering::{NodeCard, NodeId, SortedMap, SortedSet};
use node::LinkId;

use super::{Control, Done, history};

/// How often the newest checkpoint is asked for, at the desk, and shown to neighbours where it has grown.
const SHOW_EACH: Duration = Duration::from_secs(60);
/// How soon after the start: what was seen before is kept.
const SHOW_FIRST: Duration = Duration::from_secs(5);
/// How often the ledger itself is asked for one: a router without business has none otherwise.
const ASK_EACH: u32 = 10;

/// What the ledger has shown to us and to neighbours.
pub(super) struct Witness {
    key: Option<WitnessKey>,
    /// The newest, with our cosignature.
    newest: Option<String>,
    show_at: Instant,
    shown: u32,
    /// Who has been shown the newest since it was met.
    told: SortedSet<LinkId>,
    /// What neighbours have shown and nobody has compared, the newest of each.
    heard: SortedMap<LinkId, (String, Note)>,
    /// The ledger has been asked to compare, and not answered yet.
    comparing: bool,
    /// Whose was compared last: one neighbour that always has something new keeps no other from being heard.
    last: Option<LinkId>,
    /// Until when nothing is compared, as the ledger gave no answer.
    rest_until: Instant,
    /// What was compared last of each neighbour's, and need not be again.
    compared: SortedMap<LinkId, String>,
    found: Option<String>,
}

impl Witness {
    pub(super) fn new(now: Instant, account: NodeId, tls_secret: &[u8; 32], found: Option<String>) -> Self {
        Self {
            key: WitnessKey::new(account, tls_secret),
            newest: None,
            show_at: now + SHOW_FIRST,
            shown: 0,
            told: SortedSet::new(),
            heard: SortedMap::new(),
            comparing: false,
            last: None,
            rest_until: now,
            compared: SortedMap::new(),
            found,
        }
    }

    /// What was found against the ledger, in words.
    pub(super) fn found(&self) -> Option<String> {
        self.found.clone()
    }

    /// What is to be compared next: of each neighbour's in turn.
    fn next(&mut self) -> Option<(LinkId, (String, Note))> {
        let after = self.heard.keys().find(|link| self.last.is_none_or(|last| **link > last));
        let link = *after.or_else(|| self.heard.keys().next())?;
        self.last = Some(link);
        self.heard.remove_entry(&link)
    }

    /// Takes the newest checkpoint that was accepted, cosigns it, and forgets who has been shown an older one.
    fn take(&mut self, mut note: Note, now: UnixTime) {
        let text = |newest: &String| newest.split_once("\n\n").map(|(text, _)| format!("{text}\n"));
        if self.newest.as_ref().and_then(text).as_deref() == Some(note.text()) {
            return;
        }
        if let Some(key) = &self.key {
            key.cosign(&mut note, now);
            self.newest = Some(note.to_string());
            self.told.clear();
        }
    }
}

impl Control {
    /// Asks for the newest checkpoint now and then, shows it to whoever has not seen it, and has one compared that was heard.
    pub(super) fn look_at_checkpoints(&mut self, now: Instant) {
        let Some(desk) = &self.ledger else { return };
        if now >= self.witness.show_at {
            self.witness.show_at = now + SHOW_EACH;
            let asks = self.witness.shown.is_multiple_of(ASK_EACH);
            self.witness.shown = self.witness.shown.wrapping_add(1);
            if asks {
                // A datagram may have been lost.
                self.witness.told.clear();
            }
            let newest = desk.ask_later(move |ledger| {
                // Where it cannot be asked, what was seen last is the newest.
                let _away = if asks { ledger.head().ok() } else { None };
                (ledger.newest_checkpoint(), ledger.found())
            });
            self.spawn(newest, |newest| {
                let (note, found) = newest.ok()?;
                Some(Done::Checkpoint { note, found })
            });
        }
        self.show_checkpoint(now);
        self.compare_one(now);
    }

    fn show_checkpoint(&mut self, now: Instant) {
        let Some(newest) = self.witness.newest.clone() else { return };
        let there: SortedSet<LinkId> =
            self.node.links().filter(|view| view.up && view.admitted).map(|view| view.link).collect();
        // Whoever comes back is shown it again.
        self.witness.told.retain(|link| there.contains(link));
        for link in there {
            if !self.witness.told.contains(&link) && self.node.handle_checkpoint(now, link, newest.as_bytes()) {
                self.witness.told.insert(link);
            }
        }
    }

    /// A neighbour shows what it was shown. Only what it has cosigned itself is looked at, and only once.
    pub(super) fn handle_checkpoint(&mut self, link: LinkId, card: &NodeCard, note: Vec<u8>) {
        let Some(text) = String::from_utf8(note).ok().filter(|_| self.ledger.is_some()) else { return };
        let Ok(note) = text.parse::<Note>() else { return };
        if self.witness.compared.get(&link).is_some_and(|compared| compared == note.text())
            || witness::cosigned_by(&note, card.account(), &card.tls()).is_none()
        {
            return;
        }
        let who = self.person(card.account());
        self.witness.heard.insert(link, (who, note));
    }

    fn compare_one(&mut self, now: Instant) {
        if self.witness.comparing || now < self.witness.rest_until {
            return;
        }
        let Some(desk) = &self.ledger else { return };
        let Some((link, (who, note))) = self.witness.next() else { return };
        self.witness.comparing = true;
        let again = (who.clone(), note.clone());
        let text = note.text().to_owned();
        self.spawn(desk.ask_later(move |ledger| ledger.compare(&note, &who)), move |compared| {
            let compared = match compared {
                Ok(Ok(compared)) => Ok(compared),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            Some(Done::Compared { link, text, again, compared })
        });
    }

    pub(super) fn handle_newest(&mut self, note: Option<Note>, found: Option<String>) {
        if let Some(note) = note {
            self.witness.take(note, UnixTime::from_seconds(history::unix_seconds()));
        }
        self.take_found(found);
    }

    pub(super) fn handle_compared(
        &mut self,
        now: Instant,
        link: LinkId,
        text: String,
        again: (String, Note),
        compared: Result<Comparison, String>,
    ) {
        self.witness.comparing = false;
        match compared {
            Ok(Comparison::Same | Comparison::Foreign) => drop(self.witness.compared.insert(link, text)),
            Ok(Comparison::Differ(evidence)) => {
                self.witness.compared.insert(link, text);
                self.take_found(Some(evidence.words()));
            }
            // It is compared later, unless the neighbour has shown a newer one: a ledger must not get out of it by not answering.
            Err(error) => {
                self.witness.rest_until = now + SHOW_EACH;
                self.witness.heard.entry(link).or_insert(again);
                tracing::debug!(node = %self.name, error, "a neighbour's checkpoint was not compared");
            }
        }
    }

    /// What was found is said once; and that it is over, where the owner has removed it.
    fn take_found(&mut self, found: Option<String>) {
        let is_news = found != self.witness.found;
        self.witness.found = found;
        if is_news && let Some(found) = self.witness.found() {
            self.say_evidence(&found);
        }
    }

    pub(super) fn say_evidence(&mut self, found: &str) {
        tracing::error!(node = %self.name, "{found}");
        self.warn(format!("{found}; no more tokens are locked on it until its owner removes the evidence"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_checkpoint_is_cosigned_and_shown_once() {
        let now = crate::router::clock();
        let mut ours = Witness::new(now, NodeId([1; 20]), &[7; 32], None);
        let note = Note::new("waybill/0x00\n3\nroot\n".to_owned()).expect("a note");
        ours.take(note.clone(), UnixTime::from_seconds(1));
        let shown = ours.newest.clone().expect("it is shown");
        let parsed: Note = shown.parse().expect("a note");
        let key = metering::TlsKey(ed25519_public(&[7; 32]));
        assert_eq!(witness::cosigned_by(&parsed, NodeId([1; 20]), &key), Some(UnixTime::from_seconds(1)));
        assert_eq!(witness::cosigned_by(&parsed, NodeId([2; 20]), &key), None);
        ours.told.insert(LinkId(3));
        ours.take(note, UnixTime::from_seconds(2));
        assert_eq!((ours.newest.as_ref(), ours.told.len()), (Some(&shown), 1));
        ours.take(Note::new("waybill/0x00\n4\nroot\n".to_owned()).expect("a note"), UnixTime::from_seconds(2));
        assert_eq!(ours.told.len(), 0, "who has seen the old one is shown the new one");
    }

    #[test]
    fn each_neighbours_checkpoint_is_compared_in_turn() {
        let mut ours = Witness::new(crate::router::clock(), NodeId([1; 20]), &[7; 32], None);
        let note = Note::new("waybill/0x00\n3\nroot\n".to_owned()).expect("a note");
        let mut order = Vec::new();
        for _ in 0..4 {
            // The first always has something new.
            ours.heard.insert(LinkId(1), ("one".to_owned(), note.clone()));
            if order.is_empty() {
                ours.heard.insert(LinkId(2), ("two".to_owned(), note.clone()));
                ours.heard.insert(LinkId(5), ("five".to_owned(), note.clone()));
            }
            order.extend(ours.next().map(|(link, _)| link.0));
        }
        assert_eq!(order, [1, 2, 5, 1]);
    }

    fn ed25519_public(secret: &[u8; 32]) -> [u8; 32] {
        *ledger_client::LogSigner::new("a-name", secret).expect("a name").key().public()
    }
}
