//! `agentfs-fuse-host`: mounts a volume and serves it. Data flows one way: the kernel's requests come in through
//! `adapter`, which calls the core (or `views` and `control` for what is the volume's own) and replies.

mod adapter;
mod args;
mod awake;
mod background;
mod check;
mod config;
mod control;
mod flusher;
mod host;
mod housekeeping;
mod memory;
mod metrics;
mod mount;
mod negotiate;
mod notices;
mod processes;
mod readers;
mod service;
mod signals;
mod supervise;
mod views;
mod volume;
mod write_pool;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command};
use crate::config::Settings;
use crate::host::Host;

fn main() -> ExitCode {
    memory::keep_few_heaps();
    let args = Args::parse();
    let failure = if args.command.is_some() { ExitCode::from(check::UNKNOWN) } else { ExitCode::FAILURE };
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "agentfs-fuse-host: {error:#}");
            failure
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Some(Command::Check { store, repair, json }) => return check::run(store, *repair, *json),
        Some(Command::MarkProcess { pid, soft }) => {
            processes::set_mark(*pid, *soft)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::FlushFiles { mount, device }) => {
            flusher::serve(mount, device.as_deref())?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let mount = args.mount.as_deref().context("name a mount point")?;
    mount_and_serve(args, mount).map(|()| ExitCode::SUCCESS)
}

fn mount_and_serve(args: &Args, mount: &Path) -> Result<()> {
    let env = |name: &str| std::env::var(name);
    config::refuse_unknown_variables(std::env::vars_os().map(|(name, _)| name))?;
    let mount = mount::check_mount_point(mount)?;
    let settings = Settings::gather(args, &mount, &env)?;
    if args.background {
        let logs = config::state_directory(&env)?;
        std::fs::create_dir_all(&logs).with_context(|| format!("{} cannot be made", logs.display()))?;
        return background::start(&logs.join(format!("{}.log", config::escaped(&mount))));
    }
    start_log();
    if args.supervise {
        return supervise::run(args, &settings, &mount);
    }
    raise_descriptor_limit();
    let started = Host::start(&settings, mount.clone());
    if args.report_start {
        background::report(started.as_ref().map(|_| ()));
        background::detach()?;
    }
    let host = started?;
    tracing::info!(mount = %mount.display(), "mounted");
    service::ready();
    host.run()
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(false).init();
}

/// Each file that is open in the volume may hold a descriptor here.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}
