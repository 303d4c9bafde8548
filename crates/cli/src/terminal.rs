//! Text on a terminal: what comes from afar cannot move the cursor, hide or reorder anything.

/// The text on one line, with everything that a terminal would obey written out.
pub fn printable(text: &str) -> String {
    escape(text, |_| false)
}

/// The same, but line ends and tabs stay.
pub fn printable_lines(text: &str) -> String {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

/// Columns padded to their widest cell, two spaces apart; numbers are not aligned apart.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn escape(text: &str, keep: fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match keep(c) || !obeyed(c) {
            true => out.push(c),
            false => out.extend(c.escape_unicode()),
        }
    }
    out
}

/// Control characters (C0, C1, DEL), and the invisible ones that reorder or join what is shown
/// (Unicode Bidi_Control, zero width, line and paragraph separators, tags).
fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_afar_cannot_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\u{a}c");
        assert_eq!(printable("x\u{202e}y\u{200f}z"), "x\\u{202e}y\\u{200f}z");
        assert_eq!(printable_lines("a\n\tb\u{9b}"), "a\n\tb\\u{9b}");
        assert_eq!(printable("grüße, 世界 🦀"), "grüße, 世界 🦀");
    }

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_space() {
        let rows = [
            vec!["NAME".into(), "PATH".into()],
            vec!["gateway-a".into(), "direct".into()],
        ];

        assert_eq!(table(&rows), "NAME       PATH\ngateway-a  direct\n");
    }
}
