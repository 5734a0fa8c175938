//! `greptime-operator`: runs the operator, or prints the definition of its resource.

use clap::Parser;
use greptime_operator::command::{Arguments, Command};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Run) {
        Command::Crd => {
            print!("{}", greptime_operator_api::crd_yaml());
            Ok(())
        }
        Command::Run => {
            // Dependencies bring two TLS providers, and the library refuses to choose between them. An error
            // means that one is installed already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(greptime_operator::run::run(arguments.settings))
        }
    }
}
