//! How a cut cable is noticed: the kernel asks a silent peer's kernel whether it is there, and gives a connection up that nobody
//! acknowledges. A peer that is alive and busy answers by its kernel, however long its work takes, so nobody is given up for
//! being slow; a peer that was cut off is known to be within [`LINK_LOST_MAX`].

use rustix::net::sockopt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// After this long without a word from the other kernel the connection ends.
const LINK_LOST_MAX: Duration = Duration::from_secs(20);

/// How long nothing is said before the other kernel is asked, and how long between questions.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Questions without an answer: with the silence before the first they make [`LINK_LOST_MAX`].
const QUESTIONS: u32 = 3;

/// Has the kernel watch over a connection, both what it sends and what it waits for.
pub fn watch(tcp: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(&tcp, true)?;
    sockopt::set_tcp_keepidle(&tcp, ASK_EVERY)?;
    sockopt::set_tcp_keepintvl(&tcp, ASK_EVERY)?;
    sockopt::set_tcp_keepcnt(&tcp, QUESTIONS)?;
    // Data on the way takes the place of questions; without this it is sent again for a quarter of an hour.
    let limit = u32::try_from(LINK_LOST_MAX.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(&tcp, limit)?)
}
