"""The style sheet of report.html: light and dark, for screens and for paper."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --muted: #626b76; --line: #dfe3e8;
  --accent: #0072b2; --note: #fff6e0; --note-line: #e69f00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1d2126; --ink: #e8eaed; --muted: #9aa3ae; --line: #323840;
    --accent: #56b4e9; --note: #2b2415; --note-line: #b98a1c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 1120px; padding: 40px 28px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
header { margin-bottom: 26px; }
.kind { margin: 0; color: var(--accent); font-size: 12.5px; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: 2px 0 4px; font-size: 30px; line-height: 1.2; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { margin: 44px 0 14px; font-size: 19px; letter-spacing: -.01em; }
h3 { margin: 0; font-size: 15px; overflow-wrap: anywhere; }
p { margin: 0 0 10px; max-width: 78ch; }
.sub, .hint, figcaption { color: var(--muted); }
.hint { font-size: 13px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin: 22px 0; }
.fact { padding: 13px 16px 12px; border-radius: 10px; background: var(--card); }
.fact dt { color: var(--muted); font-size: 12.5px; }
.fact dd { margin: 1px 0 0; font-size: 23px; font-weight: 600; line-height: 1.25; letter-spacing: -.01em; }
.fact dd small { display: block; color: var(--muted); font-size: 12.5px; font-weight: 400; letter-spacing: 0; }
.notes { margin: 0; padding: 12px 16px 12px 34px; border-left: 3px solid var(--note-line); border-radius: 4px; background: var(--note); }
.notes li { margin: 3px 0; max-width: 92ch; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(310px, 1fr)); gap: 26px; }
figure { margin: 0; min-width: 0; }
.curves svg { display: block; width: 100%; height: auto; }
.curves svg * { stroke-linejoin: round; }
.key { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 4px 0 6px; padding: 0; min-height: 22px; list-style: none; font-size: 13px; color: var(--muted); }
.key li { display: flex; align-items: center; gap: 6px; }
.key i { flex: none; width: 14px; height: 3px; border-radius: 2px; background: var(--color); }
.key i.area { height: 11px; border-radius: 3px; }
.key svg { width: 13px; height: 13px; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { color: var(--muted); font-size: 12.5px; font-weight: 500; white-space: nowrap; }
td.number, th.number { padding-right: 0; padding-left: 14px; text-align: right; white-space: nowrap; }
td.name { min-width: 7.5em; overflow-wrap: anywhere; }
td.short { white-space: nowrap; }
tr.mean td.number { white-space: normal; }
tr.group th { padding-top: 16px; color: var(--ink); font-size: 13px; font-weight: 600; }
tr.mean td { font-weight: 600; }
.case { margin: 0 0 26px; padding: 16px; border-radius: 12px; background: #0d0f12; color: #eceef1; }
.case .head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px; margin-bottom: 10px; }
.case .head span, .case .hint { color: #a4abb5; font-size: 13px; }
.tiles { display: grid; grid-template-columns: repeat(var(--columns), minmax(150px, 1fr)); gap: 5px; overflow-x: auto; }
.tiles .column { color: #a4abb5; font-size: 12.5px; }
.tile { position: relative; display: grid; place-items: center; overflow: hidden; background: #000; }
.tile svg { display: block; }
.tile svg * { vector-effect: non-scaling-stroke; }
.tile span { position: absolute; color: #fff; font-size: 11px; line-height: 1; text-shadow: 0 0 3px #000, 0 0 3px #000; }
.tile .where { top: 6px; left: 6px; }
.tile .left { top: calc(50% - 6px); left: 5px; }
.tile .right { top: calc(50% - 6px); right: 5px; }
.case .foot { display: flex; flex-wrap: wrap; align-items: center; justify-content: space-between; gap: 8px 24px; margin-top: 10px; }
.case .key { margin: 0; color: #c9ced6; }
.scale { display: flex; align-items: center; gap: 8px; color: #c9ced6; font-size: 12.5px; }
.scale i { display: block; width: 150px; height: 9px; border-radius: 2px; }
.settings { columns: 3 270px; column-gap: 34px; margin: 0; }
.settings div { display: flex; justify-content: space-between; gap: 14px; padding: 4px 0; border-bottom: 1px solid var(--line); break-inside: avoid; font-size: 14px; }
.settings dt { flex: none; color: var(--muted); }
.settings dd { margin: 0; text-align: right; overflow-wrap: anywhere; min-width: 0; }
.settings .changed dd { font-weight: 650; }
details { margin-top: 16px; }
summary { color: var(--muted); cursor: pointer; font-size: 13.5px; }
pre { padding: 14px 16px; border-radius: 10px; background: var(--card); font: 12px/1.5 ui-monospace, "SF Mono", Consolas, "Liberation Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
footer { margin-top: 48px; padding-top: 14px; border-top: 1px solid var(--line); color: var(--muted); font-size: 13px; }
@media (max-width: 720px) {
  body { padding: 22px 14px 40px; }
}
@media print {
  :root { --paper: #fff; --card: #f4f5f7; --ink: #000; --muted: #555; --line: #ccc; --accent: #005a8d; --note: #fff6e0; }
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2 { break-after: avoid; margin-top: 26px; }
  .wide, .tiles { overflow: visible; }
  .facts { grid-template-columns: repeat(4, 1fr); }
  .fact dd { font-size: 15pt; }
  .curves { grid-template-columns: repeat(var(--columns), 1fr); gap: 16px; }
  .tiles { grid-template-columns: repeat(var(--columns), 1fr); }
  th, td { font-size: 9pt; }
  .hint { break-after: avoid; }
  .case, figure, .fact, tr { break-inside: avoid; }
  details { display: none; }
}
"""
