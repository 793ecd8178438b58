//! Durations, sizes and rates as the configuration writes them: `"1s"`, `"10GiB"`, `"20MiB/s"`.

use std::time::Duration;

/// Splits `"10GiB"` into 10 and `GiB`.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// Reads a duration: a whole number with `ms`, `s`, `min`, `h` or `d`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

/// Reads a size in bytes: a whole number with `B`, `kB`, `MB`, `GB`, `TB`, `KiB`, `MiB`, `GiB` or `TiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// Reads a rate: `unlimited` (`Some(None)`) or a size per second, in bytes per second; `None` where it is neither.
pub fn rate(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "unlimited" => Some(None),
        text => match size(text.strip_suffix("/s")?)? {
            0 => None,
            bytes => Some(Some(bytes)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_with_their_unit() {
        assert_eq!(duration("1s"), Some(Duration::from_secs(1)));
        assert_eq!(duration("250 ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("30d"), Some(Duration::from_secs(30 * 86_400)));
        for text in [
            "",
            "s",
            "1",
            "1 week",
            "-1s",
            "1.5s",
            "99999999999999999999d",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_and_rates_read_with_their_unit() {
        assert_eq!(size("10GiB"), Some(10 << 30));
        assert_eq!(size("5MB"), Some(5_000_000));
        assert_eq!(size("10"), None);
        assert_eq!(size("99999999999GiB"), None);
        assert_eq!(rate("unlimited"), Some(None));
        assert_eq!(rate("20MiB/s"), Some(Some(20 << 20)));
        assert_eq!(rate("20MiB"), None);
        assert_eq!(rate("0B/s"), None);
    }
}
