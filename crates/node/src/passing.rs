//! Passing bytes on, each direction by itself: when one side stops listening, what it has already said still arrives.
//!
//! A copy of both directions that ends at the first error would lose it: a program that has ended is reported while its
//! input is still on the way, and writing that input fails.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Passes on what `from` says until it ends or nobody listens any more; then tells `to` that it has ended. Everything is flushed
/// before more is waited for.
pub async fn pass_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, buffer_bytes: usize) {
    let mut buffer = vec![0; buffer_bytes];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(cause) => {
                tracing::debug!(%cause, "a connection broke");
                break;
            }
        };
        if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::pass_on;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    /// The program's last words arrive although it closed its side before our input reached it.
    #[tokio::test]
    async fn what_was_said_arrives_although_nobody_listens() {
        for _ in 0..50 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (shim, mut program) = UnixStream::pair().unwrap();
            program.write_all(b"the end").await.unwrap();
            drop(program);
            let mut client = ours;
            client.write_all(b"input").await.unwrap();
            let (client_read, client_write) = theirs.into_split();
            let (shim_read, shim_write) = shim.into_split();
            let input = tokio::spawn(pass_on(client_read, shim_write, 64));
            tokio::task::yield_now().await;
            pass_on(shim_read, client_write, 64).await;
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "the end");
            input.abort();
        }
    }
}
