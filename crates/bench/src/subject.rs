//! The program that is checkpointed and restored: so much incompressible memory, so many threads, so many mappings. It
//! can check itself, so that a bench of something broken ends instead of being fast.

use ferry_sys::mapped::Mapped;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Incompressible memory, bytes.
    pub bytes: u64,
    /// Threads, the first included.
    pub threads: usize,
    /// Mappings, besides those that any program has.
    pub mappings: usize,
    /// The memory is in huge pages.
    pub huge: bool,
}

/// Fills `bytes` with what no compressor makes smaller.
pub fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed | 0x9e37_79b9_0000_0001;
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    // A word of each page and its neighbours: enough to find a page that is lost, zero, or elsewhere.
    for page in bytes.chunks(4096) {
        hasher.write(&page[page.len() / 2..][..64.min(page.len() / 2)]);
    }
    hasher.finish()
}

/// The program itself. Says `ready` with its sum, and repeats the sum whenever it is asked, both by files in `dir`.
pub fn run(shape: Shape, dir: &Path) -> io::Result<()> {
    // Whatever the program that started the bench left open: it would have to be saved, or refused.
    ferry_sys::fork::close_range(3, u32::MAX)?;
    let mut memory = Mapped::new(shape.bytes as usize)?;
    memory.huge(shape.huge)?;
    fill(&mut memory, u64::from(std::process::id()));
    let mut pages = Mapped::new((shape.mappings.max(1)) * 4096)?;
    // One mapping in sixteen holds something: what many mappings cost is asked, not what their content does.
    for page in pages.chunks_mut(16 * 4096) {
        fill(&mut page[..4096], 7);
    }
    let pages = pages.stripe()?;
    for _ in 1..shape.threads {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        });
    }
    let sum = || format!("{:016x}{:016x}", hash(&memory), hash(&pages));
    publish(dir, "ready", &sum())?;
    let mut answered = String::new();
    loop {
        std::thread::sleep(Duration::from_millis(20));
        if let Ok(question) = std::fs::read_to_string(dir.join("question"))
            && question != answered
        {
            publish(dir, &format!("answer-{question}"), &sum())?;
            answered = question;
        }
    }
}

/// A whole file or none.
fn publish(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}"));
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, dir.join(name))
}

/// A running subject, as its first parent sees it. Killed when dropped.
pub struct Subject {
    child: Child,
    /// Who it is after a restore.
    restored: Option<i32>,
    dir: PathBuf,
    sum: String,
    questions: u32,
}

impl Subject {
    /// Starts one: this program again, with the hidden arguments that make it a subject.
    pub fn start(shape: Shape, dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let child = Command::new(std::env::current_exe()?)
            .arg("--subject")
            .arg(dir)
            .args(["--bytes", &shape.bytes.to_string()])
            .args(["--threads", &shape.threads.to_string()])
            .args(["--mappings", &shape.mappings.to_string()])
            .args(shape.huge.then_some("--huge"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()?;
        let mut subject =
            Self { child, restored: None, dir: dir.to_owned(), sum: String::new(), questions: 0 };
        subject.sum = subject.wait_for("ready")?;
        Ok(subject)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.restored.unwrap_or(self.child.id() as i32)
    }

    /// From now on it is this process, which is nobody's child here.
    pub fn restored(&mut self, pid: i32) {
        self.restored = Some(pid);
    }

    /// Collects the child, which something else has ended.
    pub fn reap(&mut self) -> io::Result<()> {
        match self.restored {
            None => self.child.wait().map(|_| ()),
            // Somebody else's child by now, whose number is free when that has collected it.
            Some(pid) => {
                let end = Instant::now() + Duration::from_secs(10);
                while std::fs::exists(format!("/proc/{pid}"))? && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
        }
    }

    /// Asks whoever is the subject now (it or its restored self) for its sum, and compares.
    pub fn check(&mut self) -> io::Result<()> {
        self.questions += 1;
        let question = self.questions.to_string();
        publish(&self.dir, "question", &question)?;
        let sum = self.wait_for(&format!("answer-{question}"))?;
        if sum == self.sum {
            return Ok(());
        }
        Err(io::Error::other(format!("the subject's memory is {sum}, it was {}", self.sum)))
    }

    fn wait_for(&self, name: &str) -> io::Result<String> {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            match std::fs::read_to_string(self.dir.join(name)) {
                Ok(text) => return Ok(text),
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => return Err(io::Error::other(format!("the subject never wrote {name}: {e}"))),
            }
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        match self.restored {
            None => {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            Some(pid) => {
                let _ = ferry_sys::ptrace::send(pid, 9);
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
