//! The `icecore` program; everything is in [`cli`].

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("icecore runs on Linux and macOS");

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
