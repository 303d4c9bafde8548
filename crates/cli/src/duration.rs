//! Durations as people write them: `90s`, `15m`, `24h`, `365d`, `250ms`, and a bare number of
//! seconds.

use std::time::Duration;

/// Reads a duration; for clap's `value_parser`.
pub fn parse(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "write a duration as 250ms, 30s, 15m, 24h or 7d";
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| WRONG.to_owned())?;
    let scale_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(WRONG.to_owned()),
    };
    number
        .checked_mul(scale_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| "that is too long".to_owned())
}

/// Whole seconds as people read them: the largest unit that fits.
pub fn short(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse("5"), Ok(Duration::from_secs(5)));
        for wrong in [
            "",
            "s",
            "-1s",
            "1 s",
            "1y",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
