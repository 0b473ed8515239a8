//! Transfers by TCP that are compared byte by byte.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use super::{lab::Lab, netns::PATIENCE};

/// Listens at an address of the current thread's namespace.
pub(crate) fn listen(address: &str) -> TcpListener {
    TcpListener::bind((address, 0)).expect("listen")
}

/// Sends `len` bytes from a member to `listener` and as many back; all arrive unchanged.
pub(crate) fn send_to(lab: &Lab, member: &str, listener: &TcpListener, len: usize) {
    let to = listener.local_addr().expect("an address");
    let here = lab.within(member, || TcpStream::connect_timeout(&to, PATIENCE));
    let here = here.expect("connect");
    let (there, _) = listener.accept().expect("accept");
    one_way(&here, &there, len);
    one_way(&there, &here, len);
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream, len: usize) {
    let sent: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
    to.set_read_timeout(Some(PATIENCE)).expect("a limit");
    from.set_write_timeout(Some(PATIENCE)).expect("a limit");
    let received = thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let mut received = vec![0; len];
            to.read_exact(&mut received).map(|()| received)
        });
        from.write_all(&sent).expect("send");
        receiver.join().expect("the receiver")
    });
    assert!(received.expect("receive") == sent, "the bytes differ");
}
