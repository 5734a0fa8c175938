//! As much of a URL as an endpoint may have: scheme, host, port.

/// Says what is wrong with an endpoint.
pub fn check(endpoint: &str) -> Result<(), String> {
    let Some(rest) = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://")) else {
        return Err("it must start with http:// or https://".into());
    };
    if endpoint.contains(char::is_whitespace) {
        return Err("it has a space in it".into());
    }
    if rest.contains('@') {
        return Err("user and password belong into a secret, not into the URL".into());
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("it must end after host and port".into());
    }
    let (host, port) = split_port(authority)?;
    if host.is_empty() {
        return Err("it has no host".into());
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if !bare.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':')) {
        return Err(format!("`{host}` is no host name or address"));
    }
    match port.map(str::parse::<u16>) {
        Some(Err(_) | Ok(0)) => Err(format!("`{}` is no port", port.unwrap_or_default())),
        _ => Ok(()),
    }
}

/// A colon inside brackets is part of an IPv6 address.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    let after_brackets = match (authority.starts_with('['), authority.find(']')) {
        (true, None) => return Err("the address has no closing bracket".into()),
        (true, Some(end)) => end + 1,
        (false, _) => 0,
    };
    Ok(match authority[after_brackets..].rfind(':') {
        Some(colon) => (&authority[..after_brackets + colon], Some(&authority[after_brackets + colon + 1..])),
        None => (authority, None),
    })
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn endpoints_are_accepted() {
        for endpoint in ["http://etcd:2379", "https://s3.eu-west-1.amazonaws.com", "http://10.0.0.1:7070/", "http://[::1]:2379"] {
            assert_eq!(check(endpoint), Ok(()), "{endpoint}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for (endpoint, why) in [
            ("etcd:2379", "must start with"),
            ("ftp://etcd", "must start with"),
            ("http://", "no host"),
            ("http://:2379", "no host"),
            ("http://etcd:port", "`port` is no port"),
            ("http://etcd:70000", "`70000` is no port"),
            ("http://etcd:0", "`0` is no port"),
            ("http://etcd:", "`` is no port"),
            ("http://etcd:2379/v3", "end after host and port"),
            ("http://root:secret@etcd:2379", "secret"),
            ("http://et cd:2379", "a space"),
            ("http://et$cd", "no host name"),
            ("http://[::1", "closing bracket"),
        ] {
            let error = check(endpoint).expect_err(endpoint);
            assert!(error.contains(why), "{endpoint}: {error}");
        }
    }
}
