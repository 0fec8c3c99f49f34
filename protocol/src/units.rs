//! Sizes, rates and durations as people write them.
//!
//! `K M G T` and `KiB MiB …` are 1024-based, `kB MB …` 1000-based. Rates are bytes per second, or bits with `Kbit Mbit
//! Gbit` (1000-based). Durations are `500ms`, `30s`, `10m`, `2h`, `1d`.

use std::time::Duration;

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let value: f64 = number.parse().ok()?;
    Some((value, unit.trim()))
}

fn scale(value: f64, factor: f64) -> Option<u64> {
    let bytes = value * factor;
    // Beyond 2^53 a float skips integers, and nobody means such a size.
    if bytes.is_finite() && (0.0..=9_007_199_254_740_992.0).contains(&bytes) { Some(bytes as u64) } else { None }
}

/// Bytes from text such as `64K`, `4MiB`, `10GB`.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const K: f64 = 1024.0;
    let read = || {
        let (value, unit) = split(text)?;
        let factor = match unit {
            "" | "B" => 1.0,
            "K" | "k" | "KiB" => K,
            "M" | "MiB" => K * K,
            "G" | "GiB" => K * K * K,
            "T" | "TiB" => K * K * K * K,
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            _ => return None,
        };
        scale(value, factor)
    };
    read().ok_or_else(|| format!("'{text}' is not a size: write 512K, 4MiB or 10GB"))
}

/// Bytes per second from text such as `100Mbit` or `12M`; 0 means no limit.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let bits = || {
        let (value, unit) = split(text)?;
        let factor = match unit {
            "bit" => 1.0,
            "Kbit" | "kbit" => 1e3,
            "Mbit" => 1e6,
            "Gbit" => 1e9,
            _ => return None,
        };
        scale(value, factor / 8.0)
    };
    let bytes = text.trim().strip_suffix("/s").unwrap_or(text);
    bits()
        .or_else(|| parse_size(bytes).ok())
        .ok_or_else(|| format!("'{text}' is not a rate: write 12M (bytes per second) or 100Mbit, 0 for no limit"))
}

/// A duration from text such as `500ms`, `30s`, `10m`, `2h`.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let read = || {
        let (value, unit) = split(text)?;
        let ms = match unit {
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 6e4,
            "h" => 3.6e6,
            "d" => 8.64e7,
            "" if value == 0.0 => 1.0,
            _ => return None,
        };
        scale(value, ms)
    };
    read().map(Duration::from_millis).ok_or_else(|| format!("'{text}' is not a duration: write 500ms, 30s, 10m or 2h"))
}

/// A size for people: three digits and a binary unit, e.g. `3.1 GiB`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A duration for people: `0.4s`, `12s`, `3m10s`, `2h05m`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
    }
}

/// An instant, as the time since the beginning of 1970, as RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn rfc3339(since: Duration) -> String {
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date from days, in eras of 400 years that begin on 1 March (H. Hinnant).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_rfc3339() {
        for (s, ms, text) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800, 5, "2024-02-29T00:00:00.005Z"),
            (1_795_341_606, 100, "2026-11-22T10:00:06.100Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_millis(s * 1_000 + ms)), text);
        }
    }

    #[test]
    fn one_letter_is_binary_and_two_are_decimal() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("1K", 1024),
            ("1KiB", 1024),
            ("1kB", 1000),
            ("1.5M", 1_572_864),
            ("1MB", 1_000_000),
            ("2GiB", 2 << 30),
            ("1TB", 1_000_000_000_000),
            (" 4 MiB ", 4 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "K", "-1", "1X", "1e3", "999999999T", "1 2", "0x10", "inf", "nan", "1..2"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_know_bits() {
        for (text, rate) in
            [("100Mbit", 12_500_000), ("1Gbit", 125_000_000), ("12M", 12 << 20), ("0", 0), ("5MB/s", 5_000_000)]
        {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        assert!(parse_rate("100Mb").is_err());
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("30").is_err() && parse_duration("-1s").is_err());
    }

    #[test]
    fn people_read_three_digits() {
        assert_eq!(format_size(1023), "1023 B");
        assert_eq!(format_size(5 << 30), "5.0 GiB");
        assert_eq!(format_size(1_048_570), "1.0 MiB");
        assert_eq!(format_size(412 << 20), "412 MiB");
        assert_eq!(format_duration(Duration::from_secs(3605)), "1h00m");
        assert_eq!(format_duration(Duration::from_secs(190)), "3m10s");
    }
}
