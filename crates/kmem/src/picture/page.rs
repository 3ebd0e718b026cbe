//! The frame of every HTML page: its head with the styles, and its end.

use super::svg::{STYLE, TIPS};

/// The style of a page, beside that of its pictures.
const PAGE_STYLE: &str = "\
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}\
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\
main{max-width:1360px;margin:0 auto;padding:24px 20px 48px}h1{font-size:24px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}\
.grid+h1{margin-top:32px}h2{font-size:17px;margin:0 0 2px}p{margin:0 0 12px;color:var(--faint);max-width:78ch;overflow-wrap:anywhere}p b{color:var(--ink)}\
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:12px;margin:20px 0}\
.tile,section{background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:14px 16px}\
.tile b{display:block;font-size:20px;line-height:1.3;font-variant-numeric:tabular-nums}.tile span{color:var(--faint);font-size:13px}\
.grid{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:16px}.whole{grid-column:1/-1}section{min-width:0}\
.verdict{font-weight:600}.verdict.good{color:var(--good)}.verdict.bad{color:var(--bad)}\
svg{display:block;max-width:100%;height:auto}.narrow{display:none}.scroll{overflow-x:auto}.scroll svg{max-width:none}.fit svg{max-width:100%}\
table{border-collapse:separate;border-spacing:0;width:max-content;min-width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}\
th,td{padding:4px 0 4px 18px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule);font-weight:400}\
thead th{color:var(--faint);vertical-align:bottom;white-space:normal;min-width:64px;max-width:132px;line-height:1.25}th:first-child,.text{text-align:left}\
th:first-child{padding-left:0;position:sticky;left:0;background:var(--panel);max-width:300px;white-space:normal;overflow-wrap:anywhere}td.text{white-space:normal;max-width:420px}\
tbody tr:last-child>*{border-bottom:0}thead small{display:block;font-size:12px}\
details{margin-top:8px}summary{cursor:pointer;color:var(--faint);font-size:13.5px}details .scroll{margin-top:8px}ul{margin:0;padding-left:18px;overflow-wrap:anywhere}\
footer{margin-top:20px;color:var(--faint);font-size:13px}\
.fit svg text{font-size:14px}.under{display:none;color:var(--faint)}\
@media(max-width:1000px){.grid{grid-template-columns:minmax(0,1fr)}}\
@media(max-width:720px){.fit svg text{font-size:22px}main{padding:16px 10px 32px}.wide{display:none}.narrow{display:block}\
th:first-child{max-width:150px}.under{display:block}.two .text:nth-child(2){display:none}.tile,section{padding:12px}.tiles{grid-template-columns:repeat(2,minmax(0,1fr));gap:8px}.tile b{font-size:16px}}";

/// Ends every page.
pub(crate) const END: &str = "<footer>Drawn from the live state of the allocators by kmem.</footer>\n</main>\n</body>\n</html>\n";

/// Begins a page; `title` is escaped already.
pub(crate) fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n\
         <meta name='viewport' content='width=device-width,initial-scale=1'>\n\
         <title>{title}</title>\n<style>{STYLE}{TIPS}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
}
