//! The lab's helper processes as a program of their own: for tests of crates that do not build `ferry`.

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    ferry_lab::agent_main(&args)
}
