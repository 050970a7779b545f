//! The binary: a CNI plugin when a runtime calls it, else the agent and its commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Runtimes set CNI_COMMAND and give no arguments.
    let code = match std::env::var_os("CNI_COMMAND") {
        Some(command) if !command.is_empty() => cni_plugin::plugin::main(),
        _ => cni_plugin::cli::main(),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
