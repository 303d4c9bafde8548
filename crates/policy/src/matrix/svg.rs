//! The table as an SVG: text in boxes, colours by a style sheet for light and dark, a title and a
//! description for who does not see it.

use std::fmt::Write;

use super::{Matrix, MatrixKind};

/// One line of a cell.
struct Line {
    text: String,
    class: &'static str,
}

/// Draws it.
pub(super) fn draw(matrix: &Matrix, title: &str) -> String {
    // Where there is no gateway at all, that is no news of any kind.
    let counted = matrix.rows.iter().any(|kind| kind.gateways > Some(0));
    let headings = |kinds: &[MatrixKind]| -> Vec<Vec<String>> {
        kinds.iter().map(|kind| heading(kind, counted)).collect()
    };
    let (rows, heads) = (headings(&matrix.rows), headings(&matrix.columns));
    let cells: Vec<Vec<Vec<Line>>> = (0..rows.len())
        .map(|row| {
            (0..heads.len())
                .map(|column| lines(matrix, row, column))
                .collect()
        })
        .collect();

    let left = rows
        .iter()
        .map(|lines| widest(lines))
        .max()
        .unwrap_or(0)
        .max(8)
        * CHAR
        + 2 * PAD;
    let mut x = MARGIN + left;
    let mut columns = Vec::new();
    for (column, head) in heads.iter().enumerate() {
        let texts = cells.iter().flat_map(|row| &row[column]);
        let longest = texts
            .map(|line| line.text.chars().count())
            .max()
            .unwrap_or(0);
        let width = longest.max(widest(head)).max(6) * CHAR + 2 * PAD;
        columns.push((x, width));
        x += width;
    }
    let top = MARGIN + TITLE;
    let head_height = heads.iter().map(Vec::len).max().unwrap_or(1) * LINE + 2 * PAD;
    let mut y = top + head_height;
    let mut bands = Vec::new();
    for (row, head) in rows.iter().enumerate() {
        let most = cells[row].iter().map(Vec::len).max().unwrap_or(0);
        let height = most.max(head.len()).max(1) * LINE + 2 * PAD;
        bands.push((y, height));
        y += height;
    }
    let width = x.max(MARGIN + title.chars().count() * 9).max(420) + MARGIN;
    let height = y + LEGEND + MARGIN;

    let mut svg = String::new();
    open(&mut svg, matrix, title, (width, height));
    for ((x, width), head) in columns.iter().zip(&heads) {
        text(
            &mut svg,
            (x + PAD, top + head_height - PAD - (head.len() - 1) * LINE),
            "head",
            head,
        );
        rule(&mut svg, (*x, top), (*x, y));
        let _ = width;
    }
    for ((y, height), head) in bands.iter().zip(&rows) {
        text(
            &mut svg,
            (MARGIN + PAD, y + PAD + LINE - DESCENT),
            "head",
            head,
        );
        rule(&mut svg, (MARGIN, *y), (x, *y));
        let _ = height;
    }
    for (row, (y, height)) in bands.iter().enumerate() {
        for (column, (x, width)) in columns.iter().enumerate() {
            cell(&mut svg, &cells[row][column], (*x, *y), (*width, *height));
        }
    }
    let _ = writeln!(
        svg,
        r#"<rect class="frame" x="{MARGIN}" y="{top}" width="{}" height="{}"/>"#,
        x - MARGIN,
        y - top
    );
    let _ = writeln!(
        svg,
        r#"<text class="corner" x="{}" y="{}">from ↓ to →</text>"#,
        MARGIN + PAD,
        top + head_height - PAD
    );
    legend(&mut svg, matrix, y + LINE + PAD);
    svg.push_str("</svg>\n");
    svg
}

fn open(svg: &mut String, matrix: &Matrix, title: &str, (width, height): (usize, usize)) {
    let described = format!(
        "{} kinds of sources, {} destinations; something may pass in {} of {} cells.",
        matrix.rows.len(),
        matrix.columns.len(),
        matrix.cells.len(),
        matrix.rows.len() * matrix.columns.len()
    );
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" width="{width}" height="{height}" viewBox="0 0 {width} {height}">
<title id="title">{title}</title>
<desc id="desc">{described}</desc>
<style>{STYLE}</style>
<rect class="page" width="{width}" height="{height}"/>
<text class="title" x="{MARGIN}" y="{}">{title}</text>"#,
        MARGIN + 14,
        title = escaped(title),
    );
}

fn cell(svg: &mut String, lines: &[Line], (x, y): (usize, usize), (width, height): (usize, usize)) {
    let has = |class: &str| lines.iter().any(|line| line.class == class);
    let class = match (has("message"), has("other")) {
        (true, true) => "both",
        (true, false) => "messages",
        (false, true) => "others",
        (false, false) => {
            let (x, y) = (x + width / 2, y + height / 2 + DESCENT);
            let _ = writeln!(svg, r#"<text class="none" x="{x}" y="{y}">·</text>"#);
            return;
        }
    };
    let _ = writeln!(
        svg,
        r#"<rect class="{class}" x="{}" y="{}" width="{}" height="{}" rx="4"/>"#,
        x + 2,
        y + 2,
        width - 4,
        height - 4
    );
    for (index, line) in lines.iter().enumerate() {
        let at = (x + PAD, y + PAD + (index + 1) * LINE - DESCENT);
        text(svg, at, line.class, std::slice::from_ref(&line.text));
    }
}

fn legend(svg: &mut String, matrix: &Matrix, y: usize) {
    let mut x = MARGIN;
    for (class, words) in [
        ("messages", "messages between agents"),
        ("others", "ports and other things"),
        ("both", "both"),
    ] {
        let _ = writeln!(
            svg,
            r#"<rect class="{class}" x="{x}" y="{}" width="12" height="12" rx="3"/>"#,
            y - 10
        );
        text(svg, (x + 18, y), "legend", &[words.to_owned()]);
        x += 18 + words.len() * CHAR + 16;
    }
    if !matrix.complete {
        let words = "This is not all: there is more than fits.".to_owned();
        text(svg, (MARGIN, y + LINE), "legend", &[words]);
    }
}

fn rule(svg: &mut String, (x, y): (usize, usize), (to_x, to_y): (usize, usize)) {
    let _ = writeln!(svg, r#"<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}"/>"#);
}

fn text(svg: &mut String, (x, y): (usize, usize), class: &str, lines: &[String]) {
    for (index, line) in lines.iter().enumerate() {
        let y = y + index * LINE;
        let _ = writeln!(
            svg,
            r#"<text class="{class}" x="{x}" y="{y}">{}</text>"#,
            escaped(line)
        );
    }
}

/// The name of a row or column, and how many gateways it is.
fn heading(kind: &MatrixKind, counted: bool) -> Vec<String> {
    let mut lines = wrapped(&kind.name, HEAD);
    lines.truncate(MAX_LINES);
    lines.extend(match kind.gateways.filter(|_| counted) {
        None => None,
        Some(0) => Some("no gateway yet".to_owned()),
        Some(1) => Some("1 gateway".to_owned()),
        Some(count) => Some(format!("{count} gateways")),
    });
    lines
}

fn lines(matrix: &Matrix, row: usize, column: usize) -> Vec<Line> {
    let Some(cell) = matrix.cell(row, column) else {
        return Vec::new();
    };
    let messages = cell.messages.iter().map(|text| (text, "message"));
    let all: Vec<_> = messages
        .chain(cell.others.iter().map(|text| (text, "other")))
        .collect();
    let mut lines = Vec::new();
    for (index, (text, class)) in all.iter().enumerate() {
        let wrapped = wrapped(text, CELL);
        if lines.len() + wrapped.len() > MAX_LINES && !lines.is_empty() {
            let text = format!("and {} more", all.len() - index);
            lines.push(Line { text, class });
            break;
        }
        lines.extend(
            wrapped
                .into_iter()
                .take(MAX_LINES)
                .map(|text| Line { text, class }),
        );
    }
    lines
}

/// A text in lines, broken after a blank where there is one, and else after a sign.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width {
        let head = &rest[..width];
        let after = |signs: &[char]| {
            head.iter()
                .rposition(|c| signs.contains(c))
                .map(|at| at + 1)
        };
        let cut = after(&[' ']).or_else(|| after(&[',', ':', '@', '.', '/', '-']));
        let cut = cut.filter(|cut| *cut > width / 3).unwrap_or(width);
        let tail = rest.split_off(cut);
        lines.push(rest.iter().collect::<String>().trim_end().to_owned());
        rest = tail;
    }
    lines.push(rest.into_iter().collect());
    lines
}

fn widest(lines: &[String]) -> usize {
    lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0)
}

/// Text of others is text and nothing else: no tag, no entity, no character that XML forbids.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML 1.0 §2.2.
            '\t' | '\n' | '\r' => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A page, and text on it, that reads in either light; contrast at least 4.5 to 1.
const STYLE: &str = "
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1f2933}
.title{font:600 15px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
.head{font-weight:600}
.corner,.legend{fill:#52606d}
.none{fill:#9aa5b1;text-anchor:middle}
.page{fill:#ffffff}
.frame{fill:none;stroke:#9aa5b1}
line{stroke:#d9e2ec}
.messages{fill:#d7f0ea}.others{fill:#fdeccf}.both{fill:#e3e4fa}
.message{fill:#0b5345}.other{fill:#7a4300}
@media (prefers-color-scheme:dark){
text{fill:#e4e7eb}.corner,.legend{fill:#9fb3c8}.none{fill:#616e7c}
.page{fill:#12181f}.frame{stroke:#52606d}line{stroke:#27333f}
.messages{fill:#123f37}.others{fill:#46310f}.both{fill:#2d2f5c}
.message{fill:#8ee3cf}.other{fill:#ffce85}
}
";

const CHAR: usize = 8;
const LINE: usize = 17;
const DESCENT: usize = 4;
const PAD: usize = 8;
const MARGIN: usize = 16;
const TITLE: usize = 28;
const LEGEND: usize = 48;
/// In characters.
const HEAD: usize = 26;
const CELL: usize = 36;
/// Of one cell or name: the rest is counted.
const MAX_LINES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_wrapped() {
        assert_eq!(
            escaped("<a href=\"x\">&'\u{1b}\n"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{fffd} "
        );
        assert_eq!(
            wrapped("internet:*.githubusercontent.com", 20),
            ["internet:*.", "githubusercontent.", "com"]
        );
        assert_eq!(
            wrapped("send, request, stream", 15),
            ["send, request,", "stream"]
        );
        assert_eq!(wrapped("aaaaaaaaaa", 4), ["aaaa", "aaaa", "aa"]);
    }
}
