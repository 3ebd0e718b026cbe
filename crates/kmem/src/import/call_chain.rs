//! Call chains below an event:
//!
//! ```text
//!     ffffffff8162184b __alloc_pages_noprof+0x2f ([kernel.kallsyms])   perf script, record -g
//!     ffffffff816c93f8 anon_pipe_write
//!  => anon_pipe_write                                                  ftrace, stack traces
//! => anon_pipe_write (ffffffff816c93f8)                                trace-cmd report
//! ```
//!
//! Events of pages do not name their call site. It is the first function of the chain that is not
//! one of the page allocator, as `perf kmem stat --page` has it.

/// Parts of the names of the page allocator's functions.
const ALLOCATOR: [&str; 9] = [
    "alloc_pages",
    "alloc_page_",
    "alloc_frozen_pages",
    "alloc_folio",
    "folio_alloc",
    "pages_mpol",
    "get_free_page",
    "get_zeroed_page",
    "alloc_pages_bulk",
];

/// Returns the function that a line of a call chain names; `None` for other lines, and an empty
/// text for an address without a symbol.
pub(super) fn function(line: &str) -> Option<&str> {
    let text = line.trim();
    if let Some(symbol) = text.strip_prefix("=> ") {
        return Some(without_size(symbol.split(" (").next().unwrap_or(symbol).trim()));
    }
    if !line.starts_with([' ', '\t']) {
        return None;
    }
    let (address, rest) = text.split_once(' ')?;
    let is_address = address.len() >= 4 && address.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_address {
        return None;
    }
    let symbol = rest.split(" (").next().unwrap_or(rest).trim();
    Some(if symbol.starts_with('[') { "" } else { without_size(symbol) })
}

/// Returns `function+0x12` of `function+0x12/0x34`.
fn without_size(symbol: &str) -> &str {
    symbol.split('/').next().unwrap_or(symbol)
}

/// Whether a line begins a call chain of ftrace.
pub(super) fn is_heading(line: &str) -> bool {
    ["<stack trace>", "<stack trace >"].iter().any(|end| line.trim_end().ends_with(end))
}

/// Whether a function belongs to the page allocator, so that its caller is the call site.
pub(super) fn is_allocator(function: &str) -> bool {
    function.is_empty()
        || ALLOCATOR.iter().any(|part| function.contains(part))
        || function.contains("trace_event_raw_event")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_in_both_forms() {
        for (line, expected) in [
            (
                "\tffffffff8162184b __alloc_pages_noprof+0x2f ([kernel.kallsyms])",
                Some("__alloc_pages_noprof+0x2f"),
            ),
            ("\tffffffff816c93f8 anon_pipe_write", Some("anon_pipe_write")),
            ("\t           a07e7 [unknown]", Some("")),
            (" => vfs_write+0x1/0x20", Some("vfs_write+0x1")),
            ("x-1 [001] 5.0: kfree: call_site=f ptr=0x10", None),
            ("  program 7 [001] 5.0: kfree: call_site=f ptr=0x10", None),
            ("", None),
        ] {
            assert_eq!(function(line), expected, "{line}");
        }
        assert!(is_heading("x-1 [001] ..... 5.0: <stack trace>"));
        for name in
            ["__alloc_frozen_pages_noprof", "alloc_pages_mpol", "vma_alloc_folio_noprof", ""]
        {
            assert!(is_allocator(name), "{name}");
        }
        assert!(!is_allocator("do_anonymous_page") && !is_allocator("anon_pipe_write"));
    }
}
