//! The page for people, and what a browser may do with it.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};

/// The page: one file, which asks the API for the rest.
pub(super) const TEXT: &str = include_str!("../../explorer.html");

/// A Content-Security-Policy (W3C, level 3): the page's own script and style, questions to this server, and nothing else, so
/// that what a hostile name brings along is not run even where the page has a fault.
pub(super) fn policy() -> HeaderValue {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            hash("script"),
            hash("style")
        )
    });
    HeaderValue::from_str(&POLICY).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// The hash of what stands in the page's only element of this name, as a policy writes it.
fn hash(element: &str) -> String {
    let inner =
        TEXT.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    let inner = inner.map_or("", |(inner, _)| inner);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_has_nothing_that_its_policy_forbids() {
        assert!(TEXT.len() < 30_000, "{} bytes", TEXT.len());
        for once in ["<script>", "<style>"] {
            assert_eq!(TEXT.matches(once).count(), 1, "{once}");
        }
        for never in
            ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", " style=", "://", "<script "]
        {
            assert!(!TEXT.contains(never), "{never}");
        }
    }
}
