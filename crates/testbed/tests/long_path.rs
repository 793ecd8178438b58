//! The long path is as long as it says, and loses what it says.
#![cfg(feature = "long-path")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::LongPath;
use tokio::net::{TcpListener, TcpStream};

#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_takes_as_long_as_asked_and_packets_are_lost() -> Result<()> {
    if let Some(why) = LongPath::impossible() {
        println!("not tested: {why}");
        return Ok(());
    }
    let rtt = Duration::from_millis(80);
    let path = LongPath::open("length", rtt, 0.0, 1)?;
    let (near, far) = (path.shore(0), path.shore(1));
    let at = (far.address(), 7443);
    let listener = far.spawn(TcpListener::bind(at)).await??;
    let began = Instant::now();
    let dialled = near.spawn(TcpStream::connect(at)).await??;
    let took = began.elapsed();
    ensure!(took >= rtt && took < rtt * 4, "{took:?}");
    ensure!(listener.accept().await?.1 == dialled.local_addr()?);
    // From here there is no such place.
    ensure!(TcpStream::connect(("127.0.0.1", 7443)).await.is_err());
    drop(path);

    let path = LongPath::open("losses", Duration::ZERO, 0.1, 1)?;
    let (near, far) = (path.shore(0), path.shore(1));
    let at = (far.address(), 7443);
    let ear = far.within(|| Ok(UdpSocket::bind(at)?))?;
    let mouth = near.within(|| Ok(UdpSocket::bind((near.address(), 0))?))?;
    ear.set_read_timeout(Some(Duration::from_secs(2)))?;
    // Beside, as the ear has room for few.
    let hears = std::thread::spawn(move || {
        let (mut came, mut heard) = (0, [0; 4]);
        while ear.recv(&mut heard).is_ok() {
            came += 1;
        }
        came
    });
    for n in 0..2_000_u32 {
        mouth.send_to(&n.to_be_bytes(), at)?;
        if n % 50 == 49 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let came: u32 = hears.join().expect("no panic there");
    println!("{came} of 2000 came");
    ensure!((1_700..1_900).contains(&came), "{came} came");
    Ok(())
}
