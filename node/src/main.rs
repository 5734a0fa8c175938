//! greptime-node: metasrv, datanode, frontend or standalone in one program.

mod cli;
mod roles;
mod runtime;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::runtime::Runtime;

/// Planning and reading take and give back much memory in small pieces from many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Wrong settings, as opposed to a failure at run time.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (role, common) = match &cli.command {
        Command::Metasrv(common) => ("metasrv", common),
        Command::Datanode(common) => ("datanode", common),
        Command::Frontend(common) => ("frontend", common),
        Command::Standalone(common) => ("standalone", common),
        Command::Destroy(common) => ("destroy", common),
    };
    let settings = match common.settings() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("greptime-node: {error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if common.print_config {
        return match greptime_settings::print(&settings) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("greptime-node: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Err(error) = greptime_telemetry::init_logs(&settings.log) {
        eprintln!("greptime-node: {error}");
        return ExitCode::from(EXIT_USAGE);
    }
    install_tls();
    tracing::info!(
        role,
        version = env!("CARGO_PKG_VERSION"),
        node = settings.node.id,
        "starting"
    );
    let outcome = Runtime::new().and_then(|runtime| {
        runtime.block_on(async {
            match cli.command {
                Command::Metasrv(_) => roles::metasrv::run(settings).await,
                Command::Datanode(_) => roles::datanode::run(settings).await,
                Command::Frontend(_) => roles::frontend::run(settings).await,
                Command::Standalone(_) => roles::standalone::run(settings).await,
                Command::Destroy(_) => roles::destroy::run(settings).await,
            }
        })
    });
    match outcome {
        Ok(()) => {
            tracing::info!(role, "stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(role, error = format!("{error:#}"), "stopped by an error");
            ExitCode::FAILURE
        }
    }
}

/// Dependencies bring two TLS providers, and the library refuses to choose between them.
fn install_tls() {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
