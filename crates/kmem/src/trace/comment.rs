//! Comments of a compact trace that mean something.

use super::event::MAX_ORDER;
use super::losses::Losses;

/// The start of a comment that notes an allocation that failed; the order follows.
pub const FAILED: &str = "# failed order ";

/// A comment.
pub(super) enum Comment {
    Lost(Losses),
    Failed(u8),
    Other,
}

/// Reads a comment.
pub(super) fn comment(line: &[u8]) -> Comment {
    if let Some(losses) = Losses::parse(line) {
        return Comment::Lost(losses);
    }
    let order = line.strip_prefix(FAILED.as_bytes()).and_then(|order| str::from_utf8(order).ok());
    let order = order.and_then(|order| order.parse().ok()).filter(|order| *order <= MAX_ORDER);
    order.map_or(Comment::Other, Comment::Failed)
}
