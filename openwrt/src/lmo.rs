//! LuCI's catalogues: the translation of its pages (`po/LANGUAGE/NAME.po`) as it reads it on a router.
//!
//! Each translation, padded to four bytes, then for each a hash of the original, a number of plural forms (1), where it is and how long;
//! these in the order of the hashes; at the end, where they begin. All numbers are 32 bits, the most significant byte first.

/// Why a text is no catalogue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct LmoError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// One message of a .po file: what is translated, and how.
#[derive(Clone, Debug, Default)]
struct Message {
    id: Vec<u8>,
    text: Vec<u8>,
    is_text: bool,
}

/// The catalogue of a .po file; what has no translation, or the same, is left out.
///
/// # Errors
/// [`LmoError`]: what is none of `msgid`, `msgstr`, a quoted line and a comment. Contexts and plural forms are not known here.
pub fn compile(po: &str) -> Result<Vec<u8>, LmoError> {
    let mut out = Vec::new();
    let mut index = Vec::new();
    for message in messages(po)? {
        let (key, value) = (hash(&message.id), hash(&message.text));
        if message.text.is_empty() || key == value {
            continue;
        }
        let key = if message.id.is_empty() { 0 } else { key };
        index.push((key, out.len(), message.text.len()));
        out.extend(&message.text);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    index.sort_unstable();
    let begin = out.len();
    for (key, offset, length) in index {
        for number in [key, u32::from(key != 0), offset as u32, length as u32] {
            out.extend(number.to_be_bytes());
        }
    }
    out.extend((begin as u32).to_be_bytes());
    Ok(out)
}

fn messages(po: &str) -> Result<Vec<Message>, LmoError> {
    let mut all: Vec<Message> = Vec::new();
    for (number, line) in po.lines().enumerate() {
        let line = line.trim();
        let wrong = |what| LmoError { line: number + 1, what };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let rest = if let Some(rest) = line.strip_prefix("msgid ") {
            all.push(Message::default());
            rest
        } else if let Some(rest) = line.strip_prefix("msgstr ") {
            all.last_mut().ok_or(wrong("a translation of nothing"))?.is_text = true;
            rest
        } else {
            line
        };
        let quoted = rest.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let quoted = quoted.ok_or(wrong("neither msgid, msgstr, a text in quotes nor a comment"))?;
        let message = all.last_mut().ok_or(wrong("a text of nothing"))?;
        let to = if message.is_text { &mut message.text } else { &mut message.id };
        to.extend(unquoted(quoted));
    }
    // The first message is of nothing: all that a router reads of it is the rule for plural forms.
    if let Some(head) = all.first_mut().filter(|first| first.id.is_empty()) {
        let text = String::from_utf8_lossy(&head.text).into_owned();
        let rule = text.split("\\n").find_map(|line| line.strip_prefix("Plural-Forms: "));
        head.text = rule.unwrap_or_default().as_bytes().to_vec();
    }
    Ok(all)
}

/// Without the backslashes before quotes and backslashes; others stay, as LuCI has it.
fn unquoted(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let next = bytes.next_if(|next| byte == b'\\' && matches!(next, b'"' | b'\\'));
        out.push(next.unwrap_or(byte));
    }
    out
}

/// Paul Hsieh's SuperFastHash, which begins with the length, and takes what is left over as signed bytes.
fn hash(text: &[u8]) -> u32 {
    if text.is_empty() {
        return 0;
    }
    let pair = |bytes: &[u8]| u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let signed = |byte: u8| i32::from(byte.cast_signed()).cast_unsigned();
    let mut hash = text.len() as u32;
    let mut parts = text.chunks_exact(4);
    for part in &mut parts {
        hash = hash.wrapping_add(pair(part));
        hash = (hash << 16) ^ (pair(&part[2..]) << 11) ^ hash;
        hash = hash.wrapping_add(hash >> 11);
    }
    match *parts.remainder() {
        [a, b, c] => {
            hash = hash.wrapping_add(pair(&[a, b]));
            hash ^= hash << 16;
            hash ^= signed(c) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        [a, b] => {
            hash = hash.wrapping_add(pair(&[a, b]));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [a] => {
            hash = hash.wrapping_add(signed(a));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalogue_is_what_luci_makes_of_it() {
        let po = "msgid \"\"\nmsgstr \"\"\n\"Language: de\\n\"\n\"Plural-Forms: nplurals=2; plural=(n != 1);\\n\"\n\n\
                  #: a.js\nmsgid \"Back\"\nmsgstr \"Zurück\"\n\nmsgid \"Port\"\nmsgstr \"Port\"\n\nmsgid \"none\"\nmsgstr \"\"\n\n\
                  msgid \"Say \\\"when\\\" …\"\nmsgstr \"Sag \"\n\"\\\"wann\\\"\"\n";
        // By po2lmo of LuCI's luci-base.
        let made = hex::encode(compile(po).expect("it is one"));
        assert_eq!(made, MADE);
    }

    const MADE: &str = "6e706c7572616c733d323b20706c7572616c3d286e20213d2031293b5a7572c3bc636b00536167202277616e6e2200000000000000000000000000000000001c9144cc72000000010000001c00000007af46d55e00000001000000240000000a00000030";

    #[test]
    fn what_is_no_catalogue_is_refused_with_its_line() {
        for (po, line) in [("msgstr \"a\"", 1), ("msgid \"a\"\nmsgid_plural \"b\"", 2), ("\"a\"", 1), ("\nmsgid a", 2)]
        {
            assert_eq!(compile(po).expect_err(po).line, line, "{po}");
        }
    }
}
