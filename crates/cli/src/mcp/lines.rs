//! Lines in and out, each in a thread of its own: the standard streams cannot be polled.

use std::io::{BufRead, Read, Write};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// One line of stdin.
pub enum Line {
    /// What it holds, without its end.
    Whole(Bytes),
    /// It is longer than any message.
    TooLong,
}

/// The lines of stdin, until it is closed.
pub fn stdin() -> mpsc::Receiver<Line> {
    let (lines, received) = mpsc::channel(AHEAD);
    // It ends with stdin, or with the process: nothing can wake a thread that reads.
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        while let Some(line) = read(&mut stdin) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    received
}

/// The way to stdout; the other end resolves when everything is written and nobody can write more.
pub fn stdout() -> (mpsc::Sender<Bytes>, oneshot::Receiver<()>) {
    let (lines, mut received) = mpsc::channel::<Bytes>(AHEAD);
    let (done, written) = oneshot::channel();
    std::thread::spawn(move || {
        while let Some(line) = received.blocking_recv() {
            let mut out = std::io::stdout().lock();
            let told = out
                .write_all(&line)
                .and_then(|()| out.write_all(b"\n"))
                .and_then(|()| out.flush());
            // A client that is gone reads nothing more; its stdin ends too.
            if told.is_err() {
                break;
            }
        }
        let _ = done.send(());
    });
    (lines, written)
}

/// The next line; what is too long is read past, and not held.
fn read(input: &mut impl BufRead) -> Option<Line> {
    let mut line = Vec::new();
    input
        .take(LINE_MAX)
        .read_until(b'\n', &mut line)
        .ok()
        .filter(|read| *read > 0)?;
    if line.last() == Some(&b'\n') || line.len() < usize::try_from(LINE_MAX).ok()? {
        return Some(Line::Whole(line.trim_ascii().to_vec().into()));
    }
    loop {
        let buffer = input.fill_buf().ok().filter(|buffer| !buffer.is_empty());
        let Some(buffer) = buffer else { break };
        let (end, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        input.consume(end);
        if ended {
            break;
        }
    }
    Some(Line::TooLong)
}

/// The largest request that the node takes: the largest body, escaped, and what surrounds it.
const LINE_MAX: u64 = 6 * (256 << 10) + (64 << 10);

const AHEAD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_read_past() {
        let long = "a".repeat(3 << 20);
        let mut input = std::io::Cursor::new(format!("one\r\n{long}\n\ntwo"));

        let mut seen = Vec::new();
        while let Some(line) = read(&mut input) {
            seen.push(match line {
                Line::Whole(line) => String::from_utf8(line.to_vec()).expect("text"),
                Line::TooLong => "too long".into(),
            });
        }

        assert_eq!(seen, ["one", "too long", "", "two"]);
    }
}
