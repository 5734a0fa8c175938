//! MySQL's protocol over a socket, spoken by hand.

use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::Cluster;

pub struct Client {
    pub stream: TcpStream,
    sequence: u8,
}

/// A failure as the server numbers it.
pub type MySqlResult<T> = Result<T, (u16, String)>;

impl Client {
    pub async fn connect(cluster: &Cluster, user: &str, password: &str, database: &str) -> MySqlResult<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let frontend = cluster.frontend.clone();
        tokio::spawn(async move { frontend.serve_mysql(listener, std::future::pending()).await });
        let mut client = Self {
            stream: TcpStream::connect(address).await.unwrap(),
            sequence: 0,
        };
        let hello = client.read().await;
        let version_end = hello.iter().position(|b| *b == 0).unwrap();
        let salt_start = version_end + 5;
        let mut salt = hello[salt_start..salt_start + 8].to_vec();
        salt.extend(&hello[salt_start + 27..salt_start + 39]);
        // Protocol 4.1, database, secure connection, plugin.
        let mut answer = (0x200_u32 | 0x8 | 0x8000 | 0x8_0000).to_le_bytes().to_vec();
        answer.extend([0, 0, 0, 1, 33]);
        answer.extend([0; 23]);
        answer.extend(user.bytes().chain([0]));
        let once = Sha1::digest(password.as_bytes());
        let mask = Sha1::new()
            .chain_update(&salt)
            .chain_update(Sha1::digest(once))
            .finalize();
        answer.push(20);
        answer.extend(once.iter().zip(mask).map(|(a, b)| a ^ b));
        answer.extend(database.bytes().chain([0]));
        answer.extend(b"mysql_native_password\0");
        client.write(&answer).await;
        let packet = client.read().await;
        client.check(&packet)?;
        Ok(client)
    }

    pub async fn read(&mut self) -> Vec<u8> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await.unwrap();
        self.sequence = head[3].wrapping_add(1);
        let mut packet = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        self.stream.read_exact(&mut packet).await.unwrap();
        packet
    }

    async fn write(&mut self, packet: &[u8]) {
        let mut bytes = (packet.len() as u32).to_le_bytes().to_vec();
        bytes[3] = self.sequence;
        bytes.extend(packet);
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub fn check(&self, packet: &[u8]) -> MySqlResult<()> {
        if packet[0] == 0xff {
            let text = String::from_utf8_lossy(&packet[3..]).into_owned();
            return Err((u16::from_le_bytes([packet[1], packet[2]]), text));
        }
        Ok(())
    }

    /// Sends a command, and does not wait for its answer.
    pub async fn begin(&mut self, command: u8, body: &[u8]) {
        self.sequence = 0;
        self.write(&[&[command], body].concat()).await;
    }

    async fn command(&mut self, command: u8, body: &[u8]) -> MySqlResult<Vec<u8>> {
        self.begin(command, body).await;
        let packet = self.read().await;
        self.check(&packet)?;
        Ok(packet)
    }

    /// Rows of text; no rows for a statement that gives none.
    async fn query(&mut self, sql: &str) -> MySqlResult<Vec<Vec<Option<String>>>> {
        let first = self.command(3, sql.as_bytes()).await?;
        if first[0] == 0 {
            return Ok(vec![]);
        }
        self.skip(usize::from(first[0])).await;
        let mut rows = vec![];
        loop {
            let packet = self.read().await;
            self.check(&packet)?;
            if packet[0] == 0xfe && packet.len() < 9 {
                return Ok(rows);
            }
            let mut at = 0;
            let mut row = vec![];
            while at < packet.len() {
                let length = usize::from(packet[at]);
                at += 1;
                if length == 0xfb {
                    row.push(None);
                    continue;
                }
                row.push(Some(
                    String::from_utf8_lossy(&packet[at..at + length]).into_owned(),
                ));
                at += length;
            }
            rows.push(row);
        }
    }

    /// Definitions of columns, and the packet that ends them.
    async fn skip(&mut self, columns: usize) {
        if columns > 0 {
            for _ in 0..=columns {
                self.read().await;
            }
        }
    }

    async fn prepare(&mut self, sql: &str) -> MySqlResult<(u32, usize)> {
        let answer = self.command(0x16, sql.as_bytes()).await?;
        let number = |at: usize| usize::from(u16::from_le_bytes([answer[at], answer[at + 1]]));
        self.skip(number(7)).await;
        self.skip(number(5)).await;
        Ok((
            u32::from_le_bytes([answer[1], answer[2], answer[3], answer[4]]),
            number(7),
        ))
    }

    /// Binds texts; returns the packets of the rows.
    async fn execute(&mut self, id: u32, values: &[&str]) -> MySqlResult<Vec<Vec<u8>>> {
        let mut body = id.to_le_bytes().to_vec();
        body.extend([0, 1, 0, 0, 0]);
        if !values.is_empty() {
            body.extend(vec![0; values.len().div_ceil(8)]);
            body.push(1);
            body.extend([0xfd, 0].repeat(values.len()));
            for value in values {
                body.push(value.len() as u8);
                body.extend(value.bytes());
            }
        }
        let first = self.command(0x17, &body).await?;
        if first[0] == 0 {
            return Ok(vec![]);
        }
        self.skip(usize::from(first[0])).await;
        let mut rows = vec![];
        loop {
            let packet = self.read().await;
            if packet[0] == 0xfe && packet.len() < 9 {
                return Ok(rows);
            }
            rows.push(packet);
        }
    }
}

fn row(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|v| Some((*v).to_string())).collect()
}

#[tokio::test]
async fn text_queries_give_rows_and_numbered_errors() {
    let cluster = Cluster::with_cpu().await;
    let mut client = Client::connect(&cluster, "", "", "public").await.unwrap();
    let rows = client
        .query("SELECT host, ts, usage, n FROM `cpu` WHERE host = \"host_3\" ORDER BY ts LIMIT 1")
        .await;
    assert_eq!(
        rows.unwrap(),
        [row(&["host_3", "1970-01-01 00:00:00", "1.5", "3"])]
    );
    assert_eq!(
        client
            .query("INSERT INTO cpu (host, ts) VALUES ('it\\'s', 1)")
            .await
            .unwrap(),
        [] as [Vec<_>; 0]
    );
    assert_eq!(
        client.query("SELECT usage FROM cpu WHERE ts = 1").await.unwrap(),
        [vec![None]]
    );
    assert_eq!(client.query("SELECT * FROM nosuch").await.unwrap_err().0, 1146);
    assert_eq!(client.query("SELEC").await.unwrap_err().0, 1064);
    assert_eq!(
        client.query("select @@version_comment limit 1").await.unwrap(),
        [row(&["GreptimeCluster"])]
    );
    assert_eq!(client.query("/* nothing */").await.unwrap(), [] as [Vec<_>; 0]);
    client.query("CREATE DATABASE other").await.unwrap();
    client.query("USE other").await.unwrap();
    assert_eq!(
        client.query("SELECT database()").await.unwrap(),
        [row(&["other"])]
    );
    assert_eq!(client.query("USE nosuch").await.unwrap_err().0, 1049);
    client.command(0x0e, b"").await.expect("ping");
}

#[tokio::test]
async fn an_answer_larger_than_may_be_held_streams() {
    let cluster = Cluster::with(|c| c.max_result = 1000, None).await;
    cluster.fill_cpu().await;
    let mut client = Client::connect(&cluster, "", "", "public").await.unwrap();
    assert_eq!(client.query("SELECT * FROM cpu").await.unwrap().len(), 90);
}

#[tokio::test]
async fn prepared_statements_take_parameters() {
    let cluster = Cluster::with_cpu().await;
    let mut client = Client::connect(&cluster, "", "", "public").await.unwrap();
    let (insert, parameters) = client
        .prepare("INSERT INTO cpu (host, ts, n) VALUES (?, ?, ?)")
        .await
        .unwrap();
    assert_eq!(parameters, 3);
    for n in ["7", "8"] {
        client
            .execute(insert, &["prepared", &format!("{n}000"), n])
            .await
            .unwrap();
    }
    let (select, _) = client
        .prepare("SELECT n, host FROM cpu WHERE host = ? ORDER BY n")
        .await
        .unwrap();
    let rows = client.execute(select, &["prepared"]).await.unwrap();
    // A zero, the bitmap of nulls, eight bytes of number, the text with its length.
    assert_eq!(
        rows[0],
        [&[0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8][..], b"prepared"].concat()
    );
    assert_eq!(rows.len(), 2);
    assert_eq!(
        client.execute(insert, &["a", "soon", "1"]).await.unwrap_err().0,
        1064
    );
    assert_eq!(client.prepare("SELECT * FROM nosuch").await.unwrap_err().0, 1146);
}

#[tokio::test]
async fn an_update_says_how_many_rows() {
    let cluster = Cluster::with_cpu().await;
    let mut client = Client::connect(&cluster, "", "", "public").await.unwrap();
    let done = client
        .command(3, b"UPDATE cpu SET n = n + 1 WHERE host = 'host_0'")
        .await
        .unwrap();
    assert_eq!(done[..2], [0, 10]);
    let (update, parameters) = client
        .prepare("UPDATE cpu SET n = ? WHERE host = ?")
        .await
        .unwrap();
    assert_eq!(parameters, 2);
    client.execute(update, &["7", "host_1"]).await.unwrap();
    let rows = client
        .query("SELECT count(*) FROM cpu WHERE n = 7")
        .await
        .unwrap();
    // One row of another host has it too.
    assert_eq!(rows, [row(&["11"])]);
}

#[tokio::test]
async fn decimals_json_and_vectors_are_texts() {
    let cluster = Cluster::start().await;
    let mut client = Client::connect(&cluster, "", "", "public").await.unwrap();
    client
        .query("CREATE TABLE t (ts TIMESTAMP(0) TIME INDEX, d DECIMAL(5, 2), j JSON, v VECTOR(2))")
        .await
        .unwrap();
    client
        .query("INSERT INTO t VALUES (1, -1.5, '{}', '[1, 2]')")
        .await
        .unwrap();
    assert_eq!(
        client.query("SELECT d, j, v FROM t").await.unwrap(),
        [row(&["-1.50", "{}", "[1.0, 2.0]"])]
    );
}

#[tokio::test]
async fn a_query_is_counted_by_how_it_ends() {
    let cluster = Cluster::with_cpu().await;
    let mut client = Client::connect(&cluster, "", "", "public").await.unwrap();
    client.query("SELECT host FROM cpu").await.unwrap();
    // Planned without a fault, and divides by zero with its first row.
    let zero = "SELECT 1 / (length(host) - length(host)) FROM cpu";
    let (_, message) = client.query(zero).await.unwrap_err();
    assert!(message.to_lowercase().contains("divide by zero"), "{message}");
    let text = cluster.metrics.text();
    let count = |code: &str| {
        let start = format!("greptime_frontend_requests_total{{protocol=\"mysql\",code=\"{code}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |n| n.parse().unwrap())
    };
    assert_eq!((count("Ok"), count("InvalidArgument")), (1, 1), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, "greta=secret\n").unwrap();
    let cluster = Cluster::with(|_| {}, Some(users)).await;
    assert!(
        Client::connect(&cluster, "greta", "secret", "public")
            .await
            .is_ok()
    );
    for (user, password) in [("greta", "wrong"), ("nobody", "secret"), ("", "")] {
        let refused = Client::connect(&cluster, user, password, "public").await;
        let message = format!("#28000access denied for user `{user}`: wrong user name or password");
        assert_eq!(refused.err().expect("must be refused"), (1045, message));
    }
    let unknown = Client::connect(&cluster, "greta", "secret", "nosuch").await;
    assert_eq!(unknown.err().expect("must be refused").0, 1049);
}
