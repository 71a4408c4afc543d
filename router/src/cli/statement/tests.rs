use clap::Parser;

use super::*;

/// The arguments alone, as the command line has them.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: StatementArguments,
}

fn arguments(line: &str) -> Result<StatementArguments, String> {
    let words = ["statement"].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.arguments).map_err(|usage| usage.to_string())
}

fn household(name: &str, n: u8, role: &str, sent: u64, received: u64) -> Household {
    Household {
        neighbour: name.to_owned(),
        id: NodeId([n; 20]),
        role: role.to_owned(),
        days: 30,
        sent_bytes: Bytes::new(sent),
        reported_received_bytes: Bytes::new(sent),
        reported_sent_bytes: Bytes::new(received),
        received_bytes: Bytes::new(received),
        earned: Tokens::ZERO,
        spent: Tokens::ZERO,
        written_off: Tokens::ZERO,
    }
}

fn november(unit: Unit) -> Statement {
    Statement {
        unit,
        name: "attic".to_owned(),
        id: NodeId([9; 20]),
        month: "2026-11".to_owned(),
        is_over: true,
        households: vec![
            household("barn", 1, "peer", 3 << 30, 1 << 30),
            household("mill", 2, "peer", 2 << 30, 0),
            household("uplink", 3, "provider", 90 << 30, 90 << 30),
        ],
    }
}

fn free() -> Unit {
    Unit { symbol: String::new(), decimals: 0 }
}

fn shared(statement: Statement, line: &str) -> Result<Shared, Failure> {
    Shared::new(statement, &arguments(line).unwrap())
}

#[test]
fn a_month_without_prices_is_shared_equally_and_by_bytes() {
    let shared = shared(november(free()), "--cost 100.01 --currency EUR --equal-share 40").unwrap();
    assert_eq!(
        as_text(&shared),
        "Statement of attic for 2026-11

HOUSEHOLD  ROLE      DAYS  SENT TO IT  IT RECEIVED   IT SENT  RECEIVED    CARRIED  IT PAID  WE PAID  UNPAID
barn       peer        30     3.0 GiB      3.0 GiB   1.0 GiB   1.0 GiB    4.0 GiB        -        -       -
mill       peer        30     2.0 GiB      2.0 GiB       0 B       0 B    2.0 GiB        -        -       -
uplink     provider    30    90.0 GiB     90.0 GiB  90.0 GiB  90.0 GiB  180.0 GiB        -        -       -

The month cost 100.01 EUR: 40.00 shared equally, 60.01 by bytes carried.

HOUSEHOLD  CARRIED  EQUALLY  BY BYTES  SHARE EUR
barn       4.0 GiB    20.00     40.01      60.01
mill       2.0 GiB    20.00     20.00      40.00

Bytes are billed bytes, counted while terms were agreed on.
"
    );
}

#[test]
fn a_fee_is_for_each_household_and_the_rest_by_bytes() {
    let shares = |line| {
        let shared = shared(november(free()), line).unwrap();
        shared.cost.unwrap().shares.iter().map(|share| share.in_all.get()).collect::<Vec<_>>()
    };
    assert_eq!(shares("--cost 100 --currency EUR --fee 20"), [6000, 4000]);
    assert_eq!(shares("--cost 100 --currency EUR --equal-share 100"), [5000, 5000]);
    assert_eq!(shares("--cost 100 --currency EUR --equal-share 0"), [6667, 3333]);
    assert_eq!(shares("--cost 0.01 --currency EUR"), [1, 0]);
}

#[test]
fn whoever_reports_little_does_not_pay_little() {
    let mut statement = november(free());
    statement.households[0].reported_received_bytes = Bytes::new(0);
    statement.households[1].reported_received_bytes = Bytes::new(u64::MAX);
    assert_eq!(statement.households[0].carried(), Bytes::new((1 << 30) + (3 << 30) * 3 / 4));
    assert_eq!(statement.households[1].carried(), Bytes::new(2 << 30));
}

#[test]
fn what_cannot_be_shared_is_refused_with_the_next_step() {
    let refused = |statement: Statement, line: &str| shared(statement, line).unwrap_err().to_string();
    assert!(refused(november(free()), "--cost 5").contains("--currency EUR"));
    assert!(refused(november(free()), "--cost 5.001 --currency EUR").contains("at most 2 digits"));
    assert!(refused(november(free()), "--cost 5 --currency EUR --fee 3").contains("a lower --fee"));
    let mut empty = november(free());
    empty.households.retain(|household| household.role == "provider");
    assert!(refused(empty, "--cost 5 --currency EUR").contains("nobody was carried for in 2026-11"));
    for wrong in ["--month 2026-1", "--equal-share 101 --cost 1", "--fee 1", "--cost 1 --fee 1 --equal-share 1"] {
        assert!(arguments(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_was_paid_is_in_tokens_whatever_the_cost_is_in() {
    let mut statement = november(Unit { symbol: "WAY".to_owned(), decimals: 6 });
    statement.households[0].earned = Tokens::new(1_250_000).unwrap();
    let text = csv::csv(&shared(statement.clone(), "--cost 10 --currency EUR").unwrap());
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(
        lines[0],
        "month,household,account,role,days,\"sent to it, bytes\",\"it received, bytes\",\"it sent, bytes\",\
         \"received, bytes\",\"carried, bytes\",\"it paid, WAY\",\"we paid, WAY\",\"unpaid, WAY\",\"equal share, EUR\",\
         \"share by bytes, EUR\",\"share in all, EUR\""
    );
    assert!(lines[1].starts_with("2026-11,barn,0x0101"), "{}", lines[1]);
    let barn =
        ",peer,30,3221225472,3221225472,1073741824,1073741824,4294967296,1.250000,0.000000,0.000000,2.50,3.33,5.83";
    assert!(lines[1].ends_with(barn), "{}", lines[1]);
    assert_eq!((lines.len(), lines[4]), (5, ""), "a line break ends the last line");
    // Without a currency the cost is in tokens too.
    assert!(csv::csv(&shared(statement, "--cost 10").unwrap()).contains("\"share in all, WAY\""));
}

#[test]
fn a_hostile_name_is_shown_and_does_nothing() {
    let mut statement = november(free());
    statement.households[0].neighbour = "<img src=x onerror=alert(1)>\"'&".to_owned();
    statement.households[1].neighbour = "=HYPERLINK(\"http://x\",\"y\")".to_owned();
    let shared = shared(statement, "--cost 10 --currency <b>").unwrap();
    let page = page::page(&shared);
    assert!(!page.contains("<img") && !page.contains("<b>\"") && !page.contains("EUR"), "{page}");
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;"), "{page}");
    for outside in ["<script", "http:", "https:", "url(", "@import", "src=\"", "href="] {
        assert!(!page.replace("=HYPERLINK(&quot;http:", "").contains(outside), "{outside}");
    }
    let csv = csv::csv(&shared);
    assert!(csv.contains(",\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\","), "{csv}");
}

#[test]
fn the_sums_of_a_page_are_the_cost() {
    let page = page::page(&shared(november(free()), "--cost 100.01 --currency EUR").unwrap());
    let foot = page.split("<tfoot>").nth(1).and_then(|rest| rest.split("</tfoot>").next()).unwrap();
    assert!(foot.contains(">50.00<") && foot.contains(">50.01<") && foot.contains(">100.01<"), "{foot}");
    assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"), "{page}");
    assert!(!page::page(&shared(november(free()), "").unwrap()).contains("<tfoot>"), "without a cost nobody bears any");
}

#[test]
fn programs_get_amounts_as_strings() {
    let shared = shared(november(free()), "--cost 100.01 --currency EUR").unwrap();
    let value = serde_json::to_value(&shared).unwrap();
    assert_eq!(value["month"], "2026-11");
    assert_eq!(value["households"][1]["sent_bytes"], 2_u64 << 30);
    assert_eq!(value["cost"]["total"], "10001");
    assert_eq!(value["cost"]["shares"][0]["in_all"], "5834");
}
