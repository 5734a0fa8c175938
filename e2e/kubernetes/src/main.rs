//! The command line of the laboratory.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use greptime_lab::forward::Target;
use greptime_lab::images::ImageSpec;
use greptime_lab::progress::Stopwatch;
use greptime_lab::tools::Toolbox;
use greptime_lab::{
    Cut, Lab, Node, Service, Status, Stop, faults, forward, images, lifecycle, node, node_init,
};

/// A real three-node Kubernetes on this machine, without Docker.
///
/// Its state lies in GREPTIME_LAB_DIR (default /var/lib/greptime-lab), the
/// built tools in GREPTIME_CACHE (default ~/.cache/greptimecluster).
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build the tools that are missing
    Tools {
        /// Only these
        names: Vec<String>,
    },
    /// Bring it up, or mend it
    Up,
    /// Take it down and remove every trace
    Down,
    /// Say what runs, and how to reach it
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Print shell commands that set KUBECONFIG, PATH, and the addresses of etcd and S3
    Env,
    /// Run kubectl
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build an image from a program and push it to the laboratory's registry
    Image(ImageArgs),
    /// Crash, start, partition or heal a node, or make its disk hang
    #[command(subcommand)]
    Node(NodeAction),
    /// Crash or freeze a pod's process, or cut the pod off
    #[command(subcommand)]
    Pod(PodAction),
    /// Stop or start etcd, s3 or registry
    #[command(subcommand)]
    Service(ServiceAction),
    /// Make a port of the cluster reachable on this machine, in the background
    Forward {
        #[arg(long)]
        listen: SocketAddr,
        /// HOST:PORT; HOST is an address or a name such as web.shop.svc
        #[arg(long, required_unless_present = "stop")]
        to: Option<Target>,
        /// End the forwarder that listens there
        #[arg(long, conflicts_with = "to")]
        stop: bool,
    },
    /// Run a command where pods and services can be reached by address and name
    ExecHost {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    #[command(hide = true)]
    ForwardServe {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        to: Target,
    },
    #[command(hide = true)]
    NodeBoot { node: Node },
    #[command(hide = true)]
    NodeInit { node: Node },
}

#[derive(clap::Args)]
struct ImageArgs {
    #[arg(long)]
    binary: PathBuf,
    /// registry.lab/NAME:TAG
    #[arg(long)]
    name: String,
    /// Where the program lies in the image; the default is its own name in /
    #[arg(long)]
    entrypoint: Option<String>,
    /// A further file, FROM:TO
    #[arg(long = "file")]
    files: Vec<String>,
    /// Write an OCI layout there instead of pushing
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Subcommand)]
enum NodeAction {
    /// End it at once, like a power cut
    Crash { node: Node },
    /// Start it again, and wait until it is ready
    Start { node: Node },
    /// Lose its packets while it goes on running
    Partition {
        node: Node,
        /// Lose only what it sends
        #[arg(long)]
        one_way: bool,
        /// everything, outgoing, incoming or api-server
        #[arg(long, conflicts_with = "one_way")]
        cut: Option<Cut>,
    },
    /// Make everything hang that writes to the volumes on its disk
    FreezeDisk { node: Node },
    /// Undo every partition of the node and its pods, and let its disk go on
    Heal { node: Node },
    /// Run a command inside it
    Exec {
        node: Node,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Subcommand)]
enum PodAction {
    /// Send a signal to its processes, from outside
    Kill {
        pod: String,
        #[arg(short, long, default_value = "default")]
        namespace: String,
        #[arg(short, long)]
        container: Option<String>,
        /// KILL, TERM, STOP or CONT
        #[arg(short, long, default_value = "KILL")]
        signal: String,
    },
    /// Lose its packets; `node heal` undoes it
    Partition {
        pod: String,
        #[arg(short, long, default_value = "default")]
        namespace: String,
    },
}

#[derive(Subcommand)]
enum ServiceAction {
    Start {
        service: Service,
    },
    Stop {
        service: Service,
        /// With SIGKILL
        #[arg(long)]
        kill: bool,
    },
    Restart {
        service: Service,
        /// With SIGKILL
        #[arg(long)]
        kill: bool,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("greptime-lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let lab = Lab::from_env();
    match Cli::parse().command {
        Action::Tools { names } => {
            let (watch, tools) = (Stopwatch::start(), Toolbox::from_env()?);
            tools.build_missing(&names, watch)?;
            watch.say(&format!("the tools are in {}", tools.bin().display()));
        }
        Action::Up => {
            let _lock = lab.lock()?;
            lifecycle::up(&lab)?;
            print_status(&Status::of(&lab));
        }
        Action::Down => {
            let _lock = lab.lock()?;
            lifecycle::down(&lab)?;
        }
        Action::Status { json: true } => println!("{}", serde_json::to_string_pretty(&Status::of(&lab))?),
        Action::Status { json: false } => print_status(&Status::of(&lab)),
        Action::Env => print_env(&Status::of(&lab)),
        Action::Kubectl { args } => {
            exec(
                Command::new(lab.tool("kubectl"))
                    .args(args)
                    .env("KUBECONFIG", lab.kubeconfig()),
            )?;
        }
        Action::Image(args) => image(&lab, args)?,
        Action::Node(action) => act_on_node(&lab, action)?,
        Action::Pod(action) => act_on_pod(&lab, action)?,
        Action::Service(action) => act_on_service(&lab, &action)?,
        Action::Forward {
            listen, stop: true, ..
        } => forward::stop(&lab, listen)?,
        Action::Forward { listen, to, .. } => forward::start(&lab, listen, &to.context("--to is missing")?)?,
        Action::ExecHost { command } => exec(lab.client_command(&command[0]).args(&command[1..]))?,
        Action::ForwardServe { listen, to } => forward::serve(listen, &to)?,
        Action::NodeBoot { node } => node_init::boot(&lab, node)?,
        Action::NodeInit { node } => node_init::init(&lab, node)?,
    }
    Ok(())
}

/// Turns into the command, so that its exit code and signals are its own.
fn exec(command: &mut Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("running {}", command.get_program().to_string_lossy()))
}

fn image(lab: &Lab, args: ImageArgs) -> Result<()> {
    let watch = Stopwatch::start();
    let own_name = args
        .binary
        .file_name()
        .context("--binary names no file")?
        .to_string_lossy();
    let entrypoint = args.entrypoint.unwrap_or_else(|| format!("/{own_name}"));
    let mut spec = ImageSpec::new(&args.name, &args.binary, &entrypoint);
    for pair in &args.files {
        let (from, to) = pair
            .split_once(':')
            .with_context(|| format!("--file {pair}: say FROM:TO"))?;
        spec.files.push((from.into(), to.to_owned()));
    }
    let digest = match &args.output {
        Some(layout) => images::write_layout(&spec, layout)?,
        None if lifecycle::lives(lab) => images::build_and_push(lab, &spec)?,
        None => bail!("no laboratory is up to push to; run `greptime-lab up`, or say --output DIR"),
    };
    watch.say(&format!("image {} is ready", args.name));
    println!("{}@{digest}", args.name);
    Ok(())
}

fn act_on_node(lab: &Lab, action: NodeAction) -> Result<()> {
    match action {
        NodeAction::Crash { node } => node::crash(lab, node),
        NodeAction::Start { node } => {
            let watch = Stopwatch::start();
            node::start(lab, node)?;
            lab.wait_for_node(node, true, Duration::from_secs(60))?;
            watch.say(&format!("{node} is ready"));
            Ok(())
        }
        NodeAction::Partition {
            node, one_way: true, ..
        } => faults::partition(node, Cut::Outgoing),
        NodeAction::Partition { node, cut, .. } => faults::partition(node, cut.unwrap_or(Cut::Everything)),
        NodeAction::FreezeDisk { node } => faults::freeze_disk(lab, node),
        NodeAction::Heal { node } => faults::heal(lab, node),
        NodeAction::Exec { node, command } => {
            exec(node::command_in(lab, node, &command[0])?.args(&command[1..]))
        }
    }
}

fn act_on_pod(lab: &Lab, action: PodAction) -> Result<()> {
    match action {
        PodAction::Kill {
            pod,
            namespace,
            container,
            signal,
        } => {
            let signal = faults::parse_signal(&signal)?;
            faults::signal_container(lab, &namespace, &pod, container.as_deref(), signal)
        }
        PodAction::Partition { pod, namespace } => faults::partition_pod(lab, &namespace, &pod),
    }
}

fn act_on_service(lab: &Lab, action: &ServiceAction) -> Result<()> {
    let how = |kill: &bool| if *kill { Stop::Abruptly } else { Stop::Gracefully };
    match action {
        ServiceAction::Start { service } => service.start(lab),
        ServiceAction::Stop { service, kill } => service.stop(lab, how(kill)),
        ServiceAction::Restart { service, kill } => {
            service.stop(lab, how(kill))?;
            service.start(lab)
        }
    }
}

fn print_status(status: &Status) {
    if !status.up {
        println!("The laboratory is not up ({}).", status.dir.display());
        return;
    }
    println!("KUBECONFIG  {}", status.kubeconfig.display());
    for node in &status.nodes {
        let ready = if node.ready { "ready" } else { "not ready" };
        let state = match (node.running, node.partitioned) {
            (false, _) => "crashed",
            (true, true) => "partitioned",
            (true, false) => "running",
        };
        println!("{}       {} {state}, {ready}", node.name, node.ip);
    }
    for service in &status.services {
        println!(
            "{:<11} {}",
            service.name,
            if service.running { "running" } else { "stopped" }
        );
    }
    let s3 = &status.s3;
    println!(
        "etcd at     {} (in pods also http://etcd.lab:23790)",
        status.etcd_endpoints.join(",")
    );
    println!(
        "S3 at       {} bucket {} region {} (path style)",
        s3.endpoint, s3.bucket, s3.region
    );
    println!("S3 keys     {} {}", s3.access_key_id, s3.secret_access_key);
    println!("images      {}/NAME:TAG", status.registry);
    for forward in &status.forwards {
        println!("forward     {} -> {}", forward.listen, forward.to);
    }
    println!("kubectl, helm, crane are in {}", status.bin.display());
}

fn print_env(status: &Status) {
    println!("export KUBECONFIG={}", status.kubeconfig.display());
    println!("export PATH={}:$PATH", status.bin.display());
    println!("export GREPTIME_TEST_ETCD={}", status.etcd_endpoints.join(","));
    println!("export GREPTIME_TEST_S3_ENDPOINT={}", status.s3.endpoint);
    println!("export GREPTIME_TEST_S3_BUCKET={}", status.s3.bucket);
    println!("export GREPTIME_TEST_S3_REGION={}", status.s3.region);
    println!("export AWS_ACCESS_KEY_ID={}", status.s3.access_key_id);
    println!("export AWS_SECRET_ACCESS_KEY={}", status.s3.secret_access_key);
}
