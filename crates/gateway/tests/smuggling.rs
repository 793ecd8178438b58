//! What two readers could read in two ways reaches no application.

mod support;

use gateway::site::Stand;
use support::world;

/// Requests that are refused, and what they are about. Each is followed by another request, which must not be heard either.
const REFUSED: &[(&str, &str)] = &[
    (
        "length and chunks",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks and length",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ),
    (
        "two equal lengths",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    ),
    (
        "a list of lengths",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
    ),
    (
        "a length with a plus",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: +3\r\n\r\nabc",
    ),
    (
        "a length with a minus",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: -1\r\n\r\n",
    ),
    (
        "a length in hexadecimal",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 0x5\r\n\r\nhello",
    ),
    (
        "a length with a fraction",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5.0\r\n\r\nhello",
    ),
    (
        "a length with a space",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 1 5\r\n\r\nhello",
    ),
    (
        "no length",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length:\r\n\r\nhello",
    ),
    (
        "a length beyond counting",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ),
    (
        "two codings",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a list of codings",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked twice",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "another coding",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    ),
    (
        "identity",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a coding with a tab inside",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chun\tked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding in quotes",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding with a parameter",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked;x=1\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding with a strange byte",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding without a name's end",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a name after a space",
        "POST / HTTP/1.1\r\nhost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a folded line",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a folded line with a tab",
        "POST / HTTP/1.1\r\nhost: a\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks in HTTP/1.0",
        "POST / HTTP/1.0\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a bare line feed",
        "POST / HTTP/1.1\r\nhost: a\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a bare line feed first",
        "POST / HTTP/1.1\nhost: a\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a bare carriage return",
        "POST / HTTP/1.1\r\nhost: a\rContent-Length: 5\r\n\r\nhello",
    ),
    (
        "a null in a value",
        "POST / HTTP/1.1\r\nhost: a\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a null in a name",
        "POST / HTTP/1.1\r\nhost: a\r\nX\0: a\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a line without a colon",
        "POST / HTTP/1.1\r\nhost: a\r\nContent-Length\r\n\r\n",
    ),
    (
        "a name that is empty",
        "POST / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n",
    ),
    (
        "a bracket in a name",
        "POST / HTTP/1.1\r\nhost: a\r\nContent[Length: 5\r\n\r\nhello",
    ),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("an empty host", "GET / HTTP/1.1\r\nhost:\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    ("a host of a path", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n"),
    ("a host with a user", "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n"),
    (
        "a target that names another host",
        "GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    ("a target of no form", "GET a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "a target with a fragment",
        "GET /#x HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "a target with two spaces",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    (
        "a target with a space",
        "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    ("a target with a tab", "GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("another version", "GET / HTTP/1.2\r\nhost: a\r\n\r\n"),
    ("HTTP/0.9", "GET /\r\n\r\n"),
    ("CONNECT", "CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("TRACE", "TRACE / HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "another expectation",
        "POST / HTTP/1.1\r\nhost: a\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a chunk with a plus",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk with a line feed",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk that is too long",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "a chunk beyond counting",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n",
    ),
];

#[tokio::test]
async fn none_of_the_corpus_passes() {
    let [beijing, _singapore] = world().await;
    for (about, bytes) in REFUSED {
        let mut client = beijing.connect().await;
        client
            .send(format!("{bytes}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        if let Some(reply) = client.next().await {
            assert!(
                (400..600).contains(&reply.status),
                "{about}: {}",
                reply.head
            );
        }
        assert!(client.ended().await, "{about}: the connection goes on");
        assert_eq!(beijing.application.heard(), [], "{about}");
    }
}

#[tokio::test]
async fn a_head_too_large_is_refused() {
    let [beijing, _singapore] = world().await;
    let many = "x: y\r\n".repeat(200);
    let long = format!("x: {}\r\n", "y".repeat(64 << 10));
    for fields in [many, long] {
        let mut client = beijing.connect().await;
        client
            .send(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
            .await;
        // A client that still sends while it is refused may lose the answer to a reset.
        if let Some(reply) = client.next().await {
            assert_eq!(reply.status, 431);
        }
        assert!(beijing.application.heard().is_empty());
    }
}

#[tokio::test]
async fn whatever_form_a_body_came_in_it_goes_on_in_one() {
    let [beijing, _singapore] = world().await;
    let mut client = beijing.connect().await;
    client
        .send("POST /a HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\nPOST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhiGET /c HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.body, "beijing /a 5");
    assert_eq!(client.reply().await.body, "beijing /b 2");
    assert_eq!(client.reply().await.body, "beijing /c 0");
    let heard = beijing.application.heard();
    assert_eq!(heard[0].body, b"abcde");
    assert!(heard[0].head.contains("content-length: 5") && !heard[0].head.contains("ransfer"));
    assert_eq!(heard[1].body, b"hi");
}

#[tokio::test]
async fn an_answer_that_two_readers_could_read_in_two_ways_goes_no_further() {
    let [beijing, _singapore] = world().await;
    beijing.records.set("1", Stand::Here { epoch: 1 });
    assert_eq!(beijing.get("1", "/garbage").await.status, 502);
    assert_eq!(
        beijing.get("1", "/chunks").await.body,
        "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    );
    let closing = beijing.get("1", "/until-close").await;
    assert!(
        closing.head.contains("transfer-encoding: chunked") && closing.body.contains("all of it")
    );
    // What an application says unasked is nobody's answer.
    for _ in 0..3 {
        assert_eq!(beijing.get("1", "/two").await.body, "one");
        assert_eq!(beijing.get("1", "/x").await.body, "beijing /x 0");
    }
    let mut client = beijing.connect().await;
    client
        .send("GET /part HTTP/1.1\r\nhost: a\r\n\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    assert!(
        client.next().await.is_none(),
        "half an answer is not made whole"
    );
}

#[tokio::test]
async fn heads_are_answered_without_bodies_and_old_clients_without_chunks() {
    let [beijing, _singapore] = world().await;
    let mut client = beijing.connect().await;
    client.send("HEAD /x HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client
        .send("GET /x HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
        .await;
    client
        .send("GET /chunks HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
        .await;
    let mut all = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut all)
        .await
        .unwrap();
    let all = String::from_utf8(all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200").count(), 3);
    assert!(all.ends_with("\r\n\r\nonetwo"), "{all}");
    assert_eq!(all.matches("beijing /x 0").count(), 1);
}

#[tokio::test]
async fn what_is_left_of_a_request_that_was_answered_early_is_nobodys_next_one() {
    let [beijing, _singapore] = world().await;
    for _ in 0..3 {
        let mut client = beijing.connect().await;
        client
            .send("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n")
            .await;
        // More than is kept, and not all.
        client.send(vec![b'A'; 100_000]).await;
        assert_eq!(client.reply().await.status, 200);
        // Neither the client's connection goes on, nor that to the application.
        let _ = tokio::io::AsyncWriteExt::write_all(
            &mut client.stream,
            b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .await;
        let mut other = beijing.connect().await;
        other.send("GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(other.reply().await.body, "beijing /x 0");
    }
    assert_eq!(beijing.application.count("/smuggled"), 0);
    assert_eq!(beijing.application.count("/early"), 3);
    assert_eq!(beijing.application.count("/x"), 3);
    assert_eq!(beijing.application.heard().len(), 6);
}

/// HTTP/2 begins a connection or is agreed on in TLS; it is nothing that a request can turn into.
#[tokio::test]
async fn nothing_becomes_another_protocol_in_the_middle() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let [beijing, _singapore] = world().await;
    let mut client = beijing.connect().await;
    let asked = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.send(format!("{asked}{PREFACE}{asked}")).await;
    assert_eq!(client.reply().await.status, 200);
    let refused = client.reply().await.status;
    assert!((400..600).contains(&refused), "{refused}");
    assert!(client.ended().await);
    assert_eq!(beijing.application.heard().len(), 1);

    let mut client = beijing.connect().await;
    client.send(format!("{PREFACE}{asked}")).await;
    // What is said meanwhile is said in frames.
    while client.next().await.is_some() {}
    assert_eq!(beijing.application.heard().len(), 1);
}
