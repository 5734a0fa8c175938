//! PostgreSQL's protocol over a socket, spoken by hand.

use std::time::Duration;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::Cluster;

pub struct Client {
    pub stream: TcpStream,
    /// Process and secret, as a request to cancel names them.
    key: Vec<u8>,
}

/// SQLSTATE and message.
pub type PgResult<T> = Result<T, (String, String)>;

fn failure(body: &[u8]) -> (String, String) {
    let field = |code: u8| {
        let mut parts = body.split(|b| *b == 0);
        let found = parts.find(|p| p.first() == Some(&code));
        found
            .map(|p| String::from_utf8_lossy(&p[1..]).into_owned())
            .unwrap_or_default()
    };
    (field(b'C'), field(b'M'))
}

fn number(bytes: &[u8]) -> i32 {
    i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

impl Client {
    pub async fn connect(cluster: &Cluster, user: &str, password: Option<&str>) -> PgResult<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let frontend = cluster.frontend.clone();
        tokio::spawn(async move { frontend.serve_postgres(listener, std::future::pending()).await });
        let mut client = Self {
            stream: TcpStream::connect(address).await.unwrap(),
            key: vec![],
        };
        let body = format!("user\0{user}\0database\0public\0\0");
        let mut startup = (8 + body.len() as u32).to_be_bytes().to_vec();
        startup.extend(196_608_u32.to_be_bytes());
        startup.extend(body.bytes());
        client.stream.write_all(&startup).await.unwrap();
        loop {
            let (kind, body) = client.read().await;
            match (kind, body.get(3)) {
                (b'E', _) => return Err(failure(&body)),
                (b'R', Some(10)) => client.scram(password.expect("a password is asked for")).await?,
                (b'K', _) => client.key = body,
                (b'Z', _) => return Ok(client),
                _ => {}
            }
        }
    }

    /// On a connection of its own, as `psql` does it.
    async fn cancel(&self) {
        let mut other = TcpStream::connect(self.stream.peer_addr().unwrap())
            .await
            .unwrap();
        let mut request = 16_u32.to_be_bytes().to_vec();
        request.extend(80_877_102_u32.to_be_bytes());
        request.extend(&self.key);
        other.write_all(&request).await.unwrap();
    }

    async fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; number(&head[1..]) as usize - 4];
        self.stream.read_exact(&mut body).await.unwrap();
        (head[0], body)
    }

    pub async fn write(&mut self, kind: u8, body: &[u8]) {
        let mut message = vec![kind];
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        self.stream.write_all(&message).await.unwrap();
    }

    /// RFC 5802, without channel binding.
    async fn scram(&mut self, password: &str) -> PgResult<()> {
        let first_bare = "n=,r=clientnonce";
        let first = format!("n,,{first_bare}");
        let mut body = b"SCRAM-SHA-256\0".to_vec();
        body.extend((first.len() as u32).to_be_bytes());
        body.extend(first.bytes());
        self.write(b'p', &body).await;
        let (kind, body) = self.read().await;
        if kind == b'E' {
            return Err(failure(&body));
        }
        let server_first = String::from_utf8(body[4..].to_vec()).unwrap();
        let part = |name: &str| {
            server_first
                .split(',')
                .find_map(|p| p.strip_prefix(name))
                .unwrap()
                .to_string()
        };
        let (nonce, salt) = (part("r="), STANDARD.decode(part("s=")).unwrap());
        let iterations = part("i=").parse::<u32>().unwrap().try_into().unwrap();
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &salt,
            password.as_bytes(),
            &mut salted,
        );
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let final_bare = format!("c=biws,r={nonce}");
        let auth_message = format!("{first_bare},{server_first},{final_bare}");
        let signature = sign(stored_key.as_ref(), auth_message.as_bytes());
        let proof: Vec<u8> = client_key
            .as_ref()
            .iter()
            .zip(signature.as_ref())
            .map(|(a, b)| a ^ b)
            .collect();
        self.write(
            b'p',
            format!("{final_bare},p={}", STANDARD.encode(proof)).as_bytes(),
        )
        .await;
        Ok(())
    }

    /// Reads up to ReadyForQuery; rows of text, and the tags of commands.
    #[allow(clippy::type_complexity)]
    pub async fn answer(&mut self) -> PgResult<(Vec<Vec<Option<String>>>, Vec<String>)> {
        let (mut rows, mut tags, mut failed) = (vec![], vec![], None);
        loop {
            let (kind, body) = self.read().await;
            match kind {
                b'Z' => return failed.map_or(Ok((rows, tags)), Err),
                b'E' => failed = Some(failure(&body)),
                b'C' => tags.push(String::from_utf8_lossy(&body[..body.len() - 1]).into_owned()),
                b'D' => {
                    let mut at = 2;
                    let mut row = vec![];
                    while at < body.len() {
                        let length = number(&body[at..]);
                        at += 4;
                        let end = at + length.max(0) as usize;
                        row.push((length >= 0).then(|| String::from_utf8_lossy(&body[at..end]).into_owned()));
                        at = end;
                    }
                    rows.push(row);
                }
                _ => {}
            }
        }
    }

    #[allow(clippy::type_complexity)]
    async fn query(&mut self, sql: &str) -> PgResult<(Vec<Vec<Option<String>>>, Vec<String>)> {
        self.write(b'Q', format!("{sql}\0").as_bytes()).await;
        self.answer().await
    }

    /// Types of the parameters of a statement, then its rows with the given texts bound.
    async fn extended(
        &mut self,
        sql: &str,
        values: &[&str],
    ) -> PgResult<(Vec<i32>, Vec<Vec<Option<String>>>)> {
        self.write(b'P', format!("s\0{sql}\0\0\0").as_bytes()).await;
        self.write(b'D', b"Ss\0").await;
        let mut bind = b"\0s\0\0\0".to_vec();
        bind.extend((values.len() as u16).to_be_bytes());
        for value in values {
            bind.extend((value.len() as u32).to_be_bytes());
            bind.extend(value.bytes());
        }
        bind.extend([0, 0]);
        self.write(b'B', &bind).await;
        self.write(b'E', &[0, 0, 0, 0, 0]).await;
        self.write(b'S', &[]).await;
        let mut types = vec![];
        loop {
            let (kind, body) = self.read().await;
            match kind {
                b't' => types.extend(body[2..].chunks(4).map(number)),
                b'T' | b'n' => break,
                b'E' => {
                    let failed = failure(&body);
                    self.answer().await.ok();
                    return Err(failed);
                }
                _ => {}
            }
        }
        let rows = self.answer().await?.0;
        self.write(b'C', b"Ss\0").await;
        self.write(b'S', &[]).await;
        self.answer().await?;
        Ok((types, rows))
    }
}

fn row(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|v| Some((*v).to_string())).collect()
}

#[tokio::test]
async fn simple_queries_give_rows_tags_and_sqlstates() {
    let cluster = Cluster::with_cpu().await;
    let mut client = Client::connect(&cluster, "anyone", None).await.unwrap();
    let (rows, tags) = client
        .query("SELECT host, ts, usage, n FROM \"cpu\" WHERE n = 3; INSERT INTO cpu (host, ts) VALUES ('a', 1), ('b', 1)")
        .await
        .unwrap();
    assert_eq!(rows, [row(&["host_3", "1970-01-01 00:00:00", "1.5", "3"])]);
    assert_eq!(tags, ["SELECT 1", "INSERT 0 2"]);
    assert_eq!(client.query("SELECT * FROM nosuch").await.unwrap_err().0, "42P01");
    assert_eq!(client.query("SELEC 1").await.unwrap_err().0, "42601");
    assert_eq!(
        client.query("BEGIN; SELECT 1; COMMIT").await.unwrap().1,
        ["BEGIN", "SELECT 1", "COMMIT"]
    );
    assert!(
        client.query("SELECT version()").await.unwrap().0[0][0]
            .as_ref()
            .unwrap()
            .starts_with("PostgreSQL")
    );
    assert_eq!(client.query("SHOW server_version").await.unwrap().0.len(), 1);
    assert_eq!(client.query(";").await.unwrap().0.len(), 0);
}

#[tokio::test]
async fn values_are_printed_as_postgresql_prints_them() {
    let cluster = Cluster::start().await;
    let mut client = Client::connect(&cluster, "anyone", None).await.unwrap();
    client
        .query(
            "CREATE TABLE v (ts TIMESTAMP(6) TIME INDEX, d DOUBLE, f FLOAT, b BOOLEAN, x BINARY, born DATE); \
             INSERT INTO v VALUES ('2024-01-01 00:00:00', 5, 0.1, true, X'00ff61', '2024-02-03'), \
             ('2024-01-01 00:00:00.5', 1e15, 1e6, false, X'', '0999-12-31')",
        )
        .await
        .unwrap();
    let all = "SELECT ts, d, f, b, x, born FROM v ORDER BY ts";
    let expected = [
        row(&["2024-01-01 00:00:00", "5", "0.1", "t", "\\x00ff61", "2024-02-03"]),
        row(&[
            "2024-01-01 00:00:00.5",
            "1e+15",
            "1e+06",
            "f",
            "\\x",
            "0999-12-31",
        ]),
    ];
    assert_eq!(client.query(all).await.unwrap().0, expected);
    assert_eq!(client.extended(all, &[]).await.unwrap().1, expected);
}

#[tokio::test]
async fn an_answer_larger_than_may_be_held_streams() {
    let cluster = Cluster::with(|c| c.max_result = 1000, None).await;
    cluster.fill_cpu().await;
    let mut client = Client::connect(&cluster, "anyone", None).await.unwrap();
    assert_eq!(client.query("SELECT * FROM cpu").await.unwrap().0.len(), 90);
}

#[tokio::test]
async fn extended_queries_know_their_parameters() {
    let cluster = Cluster::with_cpu().await;
    let mut client = Client::connect(&cluster, "anyone", None).await.unwrap();
    let (types, _) = client
        .extended(
            "INSERT INTO cpu (host, ts, n) VALUES ($1, $2, $3)",
            &["p", "2026-01-31 00:00:00", "7"],
        )
        .await
        .unwrap();
    // varchar, timestamp, int8.
    assert_eq!(types, [1043, 1114, 20]);
    let (types, rows) = client
        .extended(
            "SELECT n, host FROM cpu WHERE host = $1 AND n < $2 ORDER BY n",
            &["p", "10"],
        )
        .await
        .unwrap();
    assert_eq!(types, [1043, 20]);
    assert_eq!(rows, [row(&["7", "p"])]);
    // Constants beside parameters are no parameters.
    let sql = "SELECT n FROM cpu WHERE n = 7 AND host = $1 AND n < $2";
    let (types, rows) = client.extended(sql, &["p", "10"]).await.unwrap();
    assert_eq!(types, [1043, 20]);
    assert_eq!(rows, [row(&["7"])]);
    assert_eq!(
        client
            .extended("SELECT nosuch FROM cpu", &[])
            .await
            .unwrap_err()
            .0,
        "42601"
    );
    assert_eq!(
        client.extended("SELECT 1 + 1", &[]).await.unwrap().1,
        [row(&["2"])]
    );
}

#[tokio::test]
async fn an_update_says_how_many_rows_and_knows_its_parameters() {
    let cluster = Cluster::with_cpu().await;
    let mut client = Client::connect(&cluster, "anyone", None).await.unwrap();
    let (_, tags) = client
        .query("UPDATE cpu SET n = 1000 WHERE host = 'host_0'")
        .await
        .unwrap();
    assert_eq!(tags, ["UPDATE 10"]);
    let (_, tags) = client
        .query("DELETE FROM cpu WHERE host = 'host_1'")
        .await
        .unwrap();
    assert_eq!(tags, ["DELETE 10"]);
    let (types, _) = client
        .extended(
            "UPDATE cpu SET usage = $1, n = $2 WHERE host = $3",
            &["1.5", "7", "host_2"],
        )
        .await
        .unwrap();
    // float8, int8.
    assert_eq!(types[..2], [701, 20]);
    let (rows, _) = client
        .query("SELECT count(*), sum(usage) FROM cpu WHERE n = 7 AND host = 'host_2'")
        .await
        .unwrap();
    assert_eq!(rows, [row(&["10", "15"])]);
}

#[tokio::test]
async fn types_of_many_digits_are_texts() {
    let cluster = Cluster::start().await;
    let mut client = Client::connect(&cluster, "anyone", None).await.unwrap();
    client
        .query("CREATE TABLE t (ts TIMESTAMP(0) TIME INDEX, d DECIMAL(5, 2), j JSON, v VECTOR(2))")
        .await
        .unwrap();
    client
        .extended(
            "INSERT INTO t VALUES ($1, $2, $3, $4)",
            &["2026-01-31 00:00:00", "1.5", "[1]", "[1,2]"],
        )
        .await
        .unwrap();
    let (rows, _) = client.query("SELECT d, j, v FROM t").await.unwrap();
    assert_eq!(rows, [row(&["1.50", "[1]", "[1.0, 2.0]"])]);
    client
        .query("INSERT INTO t (ts) VALUES (9223372036854775807)")
        .await
        .unwrap();
    let error = client.query("SELECT ts FROM t").await.unwrap_err();
    assert!(error.1.contains("CAST"), "{error:?}");
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, "greta=secret\n").unwrap();
    let cluster = Cluster::with(|_| {}, Some(users)).await;
    let mut client = Client::connect(&cluster, "greta", Some("secret"))
        .await
        .expect("the right password");
    assert_eq!(
        client.query("SELECT current_user()").await.unwrap().0,
        [row(&["greta"])]
    );
    for (user, password) in [("greta", "wrong"), ("nobody", "secret")] {
        let refused = Client::connect(&cluster, user, Some(password)).await;
        let message = format!("password authentication failed for user \"{user}\"");
        assert_eq!(
            refused.err().expect("must be refused"),
            ("28P01".to_string(), message)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_cancelled_by_another_connection_before_and_while_rows_come() {
    let cluster = Cluster::with_cpu().await;
    let mut client = Client::connect(&cluster, "anyone", None).await.unwrap();
    // Thousands of millions of rows are counted, less than a million is sent.
    for (sql, rows_first) in [
        ("SELECT count(*) FROM cpu a, cpu b, cpu c, cpu d, cpu e\0", 0),
        ("SELECT a.n FROM cpu a, cpu b, cpu c\0", 1000),
    ] {
        client.write(b'Q', sql.as_bytes()).await;
        let mut rows = 0;
        while rows < rows_first {
            let (kind, body) = client.read().await;
            assert_ne!(kind, b'E', "{:?}", failure(&body));
            rows += u32::from(kind == b'D');
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.cancel().await;
        let ended = async {
            loop {
                match client.read().await {
                    (b'E', body) => break failure(&body).0,
                    (kind, _) => assert!(matches!(kind, b'D' | b'T'), "{kind}"),
                }
            }
        };
        let sqlstate = tokio::time::timeout(Duration::from_secs(20), ended)
            .await
            .unwrap();
        assert_eq!(sqlstate, "57014");
        while client.read().await.0 != b'Z' {}
    }
    let (rows, _) = client.query("SELECT count(*) FROM cpu").await.unwrap();
    assert_eq!(rows, [row(&["90"])]);
}
