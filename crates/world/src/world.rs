//! A world: its id, its router, and its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};

use crate::ending::{guard, listen, making};
use crate::error::WorldError;
use crate::interrupt::Interrupt;
use crate::ip;
use crate::namespace;
use crate::place::{Place, make_cgroup};
use crate::requirements;
use crate::state::{Recorder, State, WORLDS, remove};
use crate::topology::{Host, Node, Wiring};

/// What routers and nodes get before their links.
pub(crate) const FORWARDING: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    NO_DAD[0],
    NO_DAD[1],
];

/// No duplicate address detection, which would delay each IPv6 address by 1 to 2 s.
pub(crate) const NO_DAD: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// Nodes 1 to 200 and machines 1 to 200: the third byte of their addresses.
const MAX_MEMBERS: u8 = 200;

/// A router with nodes and machines around it. Dropping it removes everything it made, also when
/// a panic or an early return drops it.
#[derive(Debug)]
pub struct World {
    recorder: Arc<Recorder>,
    router: Place,
    nodes: u8,
    hosts: u8,
    standing: bool,
    logs_to: Option<PathBuf>,
}

/// A world that was left standing on purpose.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Run id: the prefix of its namespaces.
    pub id: String,
    /// Its directory with logs and captures.
    pub directory: PathBuf,
    /// A script: `enter NAME [COMMAND...]` runs a shell or a command in a pod or node, in its
    /// namespace and its cgroup.
    pub enter: PathBuf,
    state: State,
}

impl Kept {
    /// Removes it with everything in it.
    pub fn remove(self) -> Result<(), WorldError> {
        remove(&self.state)
    }
}

impl World {
    /// An empty world: a router namespace. Fails when the machine lacks something, naming all.
    /// SIGINT and SIGTERM remove it and end the process: see [`Interrupt::of_signals`].
    pub fn new() -> Result<Self, WorldError> {
        World::with_interrupt(Interrupt::of_signals())
    }

    /// The same, ended early by a flag that a signal handler raises.
    pub fn with_interrupt(interrupt: Interrupt) -> Result<Self, WorldError> {
        let cgroups = requirements::check()?;
        let (id, cgroup, recorder) = reserve(&cgroups, &interrupt)?;
        let name = format!("{id}-router");
        let router = Place {
            name: "router".to_owned(),
            netns: netio::netns::path_of(&name),
            cgroup: cgroup.join("router"),
            logs: recorder.directory().join("logs"),
            interrupt,
            recorder: Arc::clone(&recorder),
        };
        // From here on the drop guard removes what is there.
        let world = World {
            recorder,
            router,
            nodes: 0,
            hosts: 0,
            standing: true,
            logs_to: None,
        };
        fs::create_dir_all(&world.router.logs).map_err(WorldError::io("make the log directory"))?;
        make_cgroup(&world.router.cgroup)?;
        namespace::create(&name, FORWARDING)?;
        ip::batch(&name, "link set lo up\n")?;
        Ok(world)
    }

    /// The run id, part of every name.
    pub fn id(&self) -> String {
        self.recorder.state().id
    }

    /// The directory of this world: logs, configuration, captures. Goes with it.
    pub fn directory(&self) -> &Path {
        self.recorder.directory()
    }

    /// The namespace between the nodes.
    pub fn router(&self) -> &Place {
        &self.router
    }

    /// The flag that ends every wait.
    pub fn interrupt(&self) -> &Interrupt {
        self.router.interrupt()
    }

    /// One more node with a pod subnet of each family and a CNI configuration.
    pub fn node(&mut self, name: &str) -> Result<Node, WorldError> {
        self.nodes = next(self.nodes)?;
        let place = self.member(name)?;
        Node::make(
            place,
            self.wiring(name, format!("172.30.{}", self.nodes)),
            self.nodes,
        )
    }

    /// One more machine beside the nodes, that no CNI plugin knows.
    pub fn host(&mut self, name: &str) -> Result<Host, WorldError> {
        self.hosts = next(self.hosts)?;
        let place = self.member(name)?;
        Host::make(place, self.wiring(name, format!("172.31.{}", self.hosts)))
    }

    /// A file system of its own in the world's directory, with so many bytes: it can be filled
    /// without harm to anything else. Goes with the world.
    pub fn disk(&self, name: &str, bytes: u64) -> Result<PathBuf, WorldError> {
        let path = self.directory().join(name);
        let what = || format!("make the disk {}", path.display());
        fs::create_dir(&path).map_err(WorldError::io(what()))?;
        let _making = making()?;
        self.recorder.mount(&path)?;
        let options = format!("size={bytes},mode=0700");
        let (kind, flags) = (Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
        mount(kind, &path, kind, flags, Some(options.as_str()))
            .map_err(|e| WorldError::io(what())(e.into()))?;
        Ok(path)
    }

    /// Name of the router's interface towards a node or machine.
    pub fn link_to(name: &str) -> String {
        format!("to-{name}")
    }

    /// Leaves it standing; only [`crate::remove_leftovers`] or [`Kept::remove`] removes it then.
    /// The handles of its processes must be forgotten by the caller, since dropping them ends the
    /// processes.
    pub fn keep(mut self) -> Result<Kept, WorldError> {
        let state = self.recorder.state();
        let directory = self.directory().to_owned();
        let enter = directory.join("enter");
        fs::write(&enter, enter_script(&state))
            .and_then(|()| fs::set_permissions(&enter, fs::Permissions::from_mode(0o755)))
            .map_err(WorldError::io("write the script that enters pods"))?;
        self.recorder.keep()?;
        self.standing = false;
        Ok(Kept {
            id: state.id.clone(),
            directory,
            enter,
            state,
        })
    }

    /// Where to copy the logs of its processes before it goes, in whatever way it goes. What is
    /// in that directory is removed.
    pub fn save_logs_to(&mut self, directory: PathBuf) {
        self.logs_to = Some(directory);
    }

    /// Removes it now and says what could not be removed.
    pub fn close(mut self) -> Result<(), WorldError> {
        self.standing = false;
        self.end()
    }

    /// Removes it also when the logs cannot be saved; the first error.
    fn end(&self) -> Result<(), WorldError> {
        let saved = self
            .logs_to
            .as_deref()
            .map_or(Ok(()), |to| self.save_logs(to));
        remove(&self.recorder.state()).and(saved)
    }

    fn save_logs(&self, to: &Path) -> Result<(), WorldError> {
        let copy = || {
            if to.exists() {
                fs::remove_dir_all(to)?;
            }
            fs::create_dir_all(to)?;
            for entry in fs::read_dir(&self.router.logs)? {
                let entry = entry?;
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
            Ok(())
        };
        copy().map_err(WorldError::io(format!("save the logs in {}", to.display())))
    }

    fn member(&self, name: &str) -> Result<Place, WorldError> {
        let netns = format!("{}-{name}", self.id());
        let place = Place {
            name: name.to_owned(),
            netns: netio::netns::path_of(&netns),
            cgroup: self.recorder.state().cgroup.join(name),
            ..self.router.clone()
        };
        make_cgroup(&place.cgroup)?;
        namespace::create(&netns, FORWARDING)?;
        Ok(place)
    }

    fn wiring(&self, name: &str, network: String) -> Wiring {
        Wiring {
            router: self.router.clone(),
            link: World::link_to(name),
            network,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.standing {
            return;
        }
        if let Err(e) = self.end() {
            eprintln!("the world {} could not be removed: {e}", self.id());
        }
    }
}

/// A pod's programs belong into its cgroup too: hooks of the node look there.
fn enter_script(state: &State) -> String {
    let (id, cgroup) = (&state.id, state.cgroup.display());
    format!(
        "#!/bin/sh\n\
         # enter NAME [COMMAND...]: a shell or a command in a pod or node of the world {id}.\n\
         # The beginning of a name is enough when it is that of one. Without a name: all names.\n\
         name=$1\n\
         [ $# -gt 0 ] || {{ ls /run/netns | sed -n s/^{id}-//p; exit 2; }}\n\
         shift\n\
         if [ ! -e \"/run/netns/{id}-$name\" ]; then\n\
         \x20   found=$(cd /run/netns && ls -d {id}-\"$name\"* 2>/dev/null)\n\
         \x20   case $(echo $found | wc -w) in\n\
         \x20       1) name=${{found#{id}-}};;\n\
         \x20       0) echo \"no pod or node is $name; all names: $0\" >&2; exit 2;;\n\
         \x20       *) echo \"$name is the beginning of several:\" $found >&2; exit 2;;\n\
         \x20   esac\n\
         fi\n\
         [ $# -gt 0 ] || set -- \"${{SHELL:-/bin/sh}}\"\n\
         for place in {cgroup}/$name {cgroup}/*/pods/$name; do\n\
         \x20   [ ! -d \"$place\" ] || echo $$ > \"$place/cgroup.procs\" || exit\n\
         done\n\
         exec nsenter --net=/run/netns/{id}-$name \"$@\"\n"
    )
}

fn next(count: u8) -> Result<u8, WorldError> {
    let next = count.saturating_add(1);
    if next > MAX_MEMBERS {
        return Err(WorldError::Unreadable(format!(
            "a world has at most {MAX_MEMBERS} of these"
        )));
    }
    Ok(next)
}

/// The id, the cgroup's path and the record of a new world.
fn reserve(
    cgroups: &Path,
    interrupt: &Interrupt,
) -> Result<(String, PathBuf, Arc<Recorder>), WorldError> {
    if interrupt.is_of_signals() {
        listen()?;
    }
    let making = making()?;
    let id = new_id()?;
    let cgroup = cgroups.join(format!("culvert-{id}"));
    let recorder = Arc::new(Recorder::new(&id, cgroup.clone())?);
    if interrupt.is_of_signals() {
        guard(&making, &recorder, interrupt);
    }
    Ok((id, cgroup, recorder))
}

/// A short id that no world on this machine has; making its directory reserves it.
fn new_id() -> Result<String, WorldError> {
    fs::create_dir_all(WORLDS).map_err(WorldError::io(format!("make {WORLDS}")))?;
    loop {
        let id = format!("cv{:05x}", rand::random::<u32>() & 0xf_ffff);
        match fs::create_dir(Path::new(WORLDS).join(&id)) {
            Ok(()) => return Ok(id),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            // The last world of another process took the directory with it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(WORLDS).map_err(WorldError::io(format!("make {WORLDS}")))?;
            }
            Err(e) => return Err(WorldError::io(format!("make {WORLDS}/{id}"))(e)),
        }
    }
}
