//! Quantities of Kubernetes (`500m`, `2Gi`), compared by value: the API server rewrites them to a canonical form.

/// Whether both are quantities and equal, as `1024Mi` and `1Gi`.
pub fn equal(a: &str, b: &str) -> bool {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// In units of 10^-9, the finest that Kubernetes keeps.
fn parse(text: &str) -> Option<i128> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c)))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (multiply, divide) = factor(suffix)?;
    let decimals = 10i128.checked_pow(fraction.len() as u32)?;
    let scaled = digits.checked_mul(multiply)?;
    let by = divide.checked_mul(decimals)?;
    // What is finer than the finest unit is rounded up, as the API server does.
    let value = scaled.checked_add(by - 1)? / by;
    Some(if negative { -value } else { value })
}

/// What a number with this suffix is multiplied with and divided by to be in units of 10^-9.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    const NANO: i128 = 1_000_000_000;
    let decimal = |power: u32| Some((NANO.checked_mul(10i128.checked_pow(power)?)?, 1));
    let binary = |power: u32| Some((NANO.checked_mul(1i128 << (10 * power))?, 1));
    match suffix {
        "n" => Some((1, 1)),
        "u" => Some((1_000, 1)),
        "m" => Some((1_000_000, 1)),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 {
                Some((NANO, size))
            } else {
                Some((NANO.checked_mul(size)?, 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::equal;

    #[test]
    fn the_same_amount_is_equal_however_it_is_written() {
        for (a, b) in [
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("1", "1000m"),
            ("1e3", "1k"),
            ("1.5Gi", "1536Mi"),
        ] {
            assert!(equal(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn different_amounts_and_things_that_are_no_quantities_are_not() {
        for (a, b) in [
            ("1Gi", "1G"),
            ("1", "2"),
            ("one", "one"),
            ("", ""),
            ("1Xi", "1Xi"),
            ("-1", "1"),
        ] {
            assert!(!equal(a, b), "{a} and {b}");
        }
    }
}
