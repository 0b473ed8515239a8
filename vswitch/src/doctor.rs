//! `vswitch doctor`: what this machine offers, what is missing, what to do.
//!
//! In: the machine, and a configuration if one is given. Out: findings, in the order of the
//! causes. What must hold: nothing is changed, no running switch is needed, and what cannot be
//! read is said so.

use std::{fs, path::Path};

use rustix::{
    net::{AddressFamily, SocketType, socket},
    process::{Resource, getrlimit},
};
use serde::Serialize;

use pmd::vhost_user::Role;

use crate::config::{
    Config, DEFAULT_SOCKET, Machine,
    types::{Driver, VhostUser},
};

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works; something could be better, or should be known.
    Note,
    /// Something will not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it is to be taken.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl Finding {
    fn new(subject: &str, status: Status, found: impl Into<String>, advice: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            status,
            found: found.into(),
            advice: advice.to_owned(),
        }
    }

    fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self::new(subject, Status::Ok, found, "")
    }
}

/// Looks at everything. With a configuration, at the interfaces it names; else at all.
pub fn examine(config: Option<&Config>) -> Vec<Finding> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut findings = vec![kernel(&release)];
    findings.extend(kernel_options(&release));
    findings.push(af_xdp_socket());
    findings.push(btf());
    findings.push(capabilities(&status));
    findings.push(memlock(&status));
    findings.push(hugepages(&memory));
    findings.push(cores(config));
    findings.push(socket_folder(config));
    findings.push(tun(config));
    findings.extend(interfaces(config, &release));
    let ports = config.map_or(&[][..], |config| &config.ports);
    findings.extend(ports.iter().filter_map(|port| match &port.driver {
        Driver::VhostUser(wanted) => Some(guest_socket(&port.name, wanted)),
        _ => None,
    }));
    findings
}

/// Whether the switch and a guest's front end can meet.
fn guest_socket(port: &str, wanted: &VhostUser) -> Finding {
    use rustix::fs::{Access, access};
    let subject = format!("port {port}");
    let socket = wanted.socket.display();
    let folder = wanted.socket.parent().unwrap_or(Path::new("/"));
    let problem =
        |found: String, advice: &str| Finding::new(&subject, Status::Problem, found, advice);
    if !folder.is_dir() {
        return problem(
            format!("{} does not exist", folder.display()),
            "make it, where the switch and QEMU may both use it: docs/vm-ports.md",
        );
    }
    match wanted.role {
        Role::Server if access(folder, Access::WRITE_OK).is_err() => problem(
            format!(
                "{} is not writable, and the switch makes {socket}",
                folder.display()
            ),
            "let the switch's user write to the folder, or use role = \"client\"",
        ),
        Role::Server => Finding::ok(&subject, format!("{socket} can be made")),
        Role::Client if !wanted.socket.exists() => Finding::new(
            &subject,
            Status::Note,
            format!("{socket} is not there"),
            "start the VM, with server=on; the switch connects when it comes",
        ),
        Role::Client if access(&wanted.socket, Access::WRITE_OK).is_err() => problem(
            format!("{socket} may not be used by this user"),
            "run as root, or let the switch's group write to it: docs/vm-ports.md",
        ),
        Role::Client => Finding::ok(&subject, format!("{socket} is there")),
    }
}

/// Major and minor number of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Up to this MTU a frame fits one chunk of frame memory in every mode, in bytes.
const MTU_IN_ONE_PIECE: u32 = 3500;

fn kernel(release: &str) -> Finding {
    match version(release) {
        Some(found) if found < (5, 9) => Finding::new(
            "kernel",
            Status::Problem,
            format!("{release}; af_xdp ports need 5.9 (XDP by BPF link)"),
            "boot a newer kernel",
        ),
        Some(found) if found < (6, 6) => Finding::new(
            "kernel",
            Status::Note,
            format!(
                "{release}; an MTU above about {MTU_IN_ONE_PIECE} needs 6.6 (AF_XDP multi-buffer), VLAN tags beside frames need 6.8"
            ),
            "boot 6.6 or newer for MTU 9000, 6.8 or newer for trunk ports",
        ),
        Some(found) if found < (6, 8) => Finding::new(
            "kernel",
            Status::Note,
            format!("{release}; VLAN tags beside frames need 6.8 (XDP metadata)"),
            "boot 6.8 or newer for trunk ports",
        ),
        Some(_) => Finding::ok("kernel", release),
        None => Finding::new(
            "kernel",
            Status::Note,
            release,
            "not understood; 5.9 is needed, 6.6 for MTU 9000, 6.8 for trunk ports",
        ),
    }
}

fn kernel_options(release: &str) -> Option<Finding> {
    let text = fs::read_to_string(format!("/boot/config-{release}")).ok()?;
    Some(missing_options(&text))
}

fn missing_options(text: &str) -> Finding {
    const NEEDED: &[&str] = &["CONFIG_BPF_SYSCALL", "CONFIG_BPF_JIT", "CONFIG_XDP_SOCKETS"];
    let has = |option: &&str| {
        text.lines().any(|line| {
            line.strip_prefix(*option)
                .is_some_and(|rest| rest.starts_with("=y"))
        })
    };
    let missing: Vec<&str> = NEEDED.iter().filter(|o| !has(o)).copied().collect();
    if missing.is_empty() {
        Finding::ok("kernel options", NEEDED.join(", "))
    } else {
        Finding::new(
            "kernel options",
            Status::Problem,
            format!("without {}", missing.join(", ")),
            "boot a kernel that has them; those of Debian 12 and newer do",
        )
    }
}

fn af_xdp_socket() -> Finding {
    match socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => Finding::ok("AF_XDP", "sockets can be made"),
        Err(rustix::io::Errno::PERM) => Finding::new(
            "AF_XDP",
            Status::Problem,
            "this user may not make sockets",
            "run as root, or with CAP_NET_RAW",
        ),
        Err(error) => Finding::new(
            "AF_XDP",
            Status::Problem,
            format!("no socket: {error}"),
            "boot a kernel with CONFIG_XDP_SOCKETS; until then only tap, pcap and memory ports work",
        ),
    }
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Finding::ok("BTF", "/sys/kernel/btf/vmlinux is there")
    } else {
        Finding::new(
            "BTF",
            Status::Note,
            "/sys/kernel/btf/vmlinux is not there",
            "VLAN tags that a driver takes out of frames cannot be seen by generic XDP; boot a kernel with CONFIG_DEBUG_INFO_BTF",
        )
    }
}

/// Whether a bit of the effective capabilities is set (`linux/capability.h`).
fn has_capability(status: &str, bit: u32) -> bool {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits >> bit & 1 == 1)
}

const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

fn capabilities(status: &str) -> Finding {
    const NEEDED: &[(&str, u32)] = &[("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_BPF", 39)];
    // CAP_SYS_ADMIN stands in for CAP_BPF.
    let has =
        |bit| has_capability(status, bit) || (bit == 39 && has_capability(status, CAP_SYS_ADMIN));
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(_, bit)| !has(*bit))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        Finding::ok("capabilities", "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF")
    } else {
        Finding::new(
            "capabilities",
            Status::Problem,
            format!("without {}", missing.join(", ")),
            "run as root, or through scripts/vswitch.service, for af_xdp and tap ports",
        )
    }
}

fn memlock(status: &str) -> Finding {
    const ENOUGH: u64 = 256 << 20;
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        _ if has_capability(status, CAP_IPC_LOCK) => {
            Finding::ok("locked memory", "unlimited (CAP_IPC_LOCK)")
        }
        None => Finding::ok("locked memory", "unlimited"),
        Some(bytes) if bytes >= ENOUGH => {
            Finding::ok("locked memory", format!("{} MiB", bytes >> 20))
        }
        Some(bytes) => Finding::new(
            "locked memory",
            Status::Problem,
            format!(
                "{} KiB; each af_xdp queue locks about 8 MiB and more",
                bytes >> 10
            ),
            "raise it: ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        ),
    }
}

fn hugepages(memory: &str) -> Finding {
    let value = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let size_kib = value("Hugepagesize:").unwrap_or(2048);
    match (value("HugePages_Free:"), value("HugePages_Total:")) {
        (Some(free), Some(total)) if free > 0 => Finding::ok(
            "hugepages",
            format!("{free} of {total} free, {size_kib} KiB each"),
        ),
        (_, total) => Finding::new(
            "hugepages",
            Status::Note,
            format!(
                "none free ({} in all); ordinary pages are used",
                total.unwrap_or(0)
            ),
            "for fewer TLB misses, above all with guests of many GiB: sysctl vm.nr_hugepages=64, and docs/vm-ports.md",
        ),
    }
}

fn cores(config: Option<&Config>) -> Finding {
    let machine = Machine::this();
    let isolated = fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    let isolated = isolated.trim();
    let workers = config.map_or(1, |config| config.workers.cores.len());
    let found = format!(
        "{} for {workers} worker(s), isolated: {}",
        machine.cores.len(),
        if isolated.is_empty() {
            "none"
        } else {
            isolated
        }
    );
    if machine.cores.len() <= workers {
        Finding::new(
            "cores",
            Status::Note,
            found,
            "leave a core for everything else, or workers will be held up; do not use busy_poll",
        )
    } else if isolated.is_empty() {
        Finding::new(
            "cores",
            Status::Note,
            found,
            "for steady latency, isolate the workers' cores: kernel option isolcpus=",
        )
    } else {
        Finding::ok("cores", found)
    }
}

fn socket_folder(config: Option<&Config>) -> Finding {
    let socket = config.map_or(Path::new(DEFAULT_SOCKET), |config| &config.switch.socket);
    // The nearest folder that is there; the ones below it are made at start.
    let folder = socket.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.unwrap_or(Path::new("/"));
    match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Finding::ok(
            "control socket",
            format!("{} can be made", socket.display()),
        ),
        Err(_) => Finding::new(
            "control socket",
            Status::Problem,
            format!("{} is not writable", folder.display()),
            "run as root, or choose another path with --socket",
        ),
    }
}

fn tun(config: Option<&Config>) -> Finding {
    let wanted = config.is_some_and(|config| {
        let mut ports = config.ports.iter();
        ports.any(|port| matches!(port.driver, Driver::Tap(_)))
    });
    if Path::new("/dev/net/tun").exists() {
        Finding::ok("tap", "/dev/net/tun is there")
    } else {
        let status = if wanted {
            Status::Problem
        } else {
            Status::Note
        };
        Finding::new(
            "tap",
            status,
            "/dev/net/tun is not there",
            "modprobe tun, for tap ports",
        )
    }
}

fn interfaces(config: Option<&Config>, release: &str) -> Vec<Finding> {
    let sys = Path::new("/sys/class/net");
    let names: Vec<String> = if let Some(config) = config {
        let ports = config.ports.iter();
        ports
            .filter(|port| matches!(port.driver, Driver::AfXdp(_)))
            .filter_map(|port| port.driver.interface().map(str::to_owned))
            .collect()
    } else {
        let entries = fs::read_dir(sys).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != "lo").collect();
        names.sort();
        names
    };
    let wanted = config.is_some();
    let each = names
        .iter()
        .map(|name| interface(&sys.join(name), name, wanted, release));
    each.collect()
}

/// Drivers with native XDP, as far as is known.
const NATIVE: &[&str] = &[
    "ena",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "nfp",
    "qede",
    "sfc",
    "stmmac",
    "tsnep",
    "veth",
    "virtio_net",
    "vmxnet3",
    "bnxt_en",
];

fn interface(path: &Path, name: &str, wanted: bool, release: &str) -> Finding {
    let subject = format!("interface {name}");
    if !path.exists() {
        return Finding::new(
            &subject,
            Status::Problem,
            "it does not exist",
            "create it; vswitch waits for it and attaches when it appears",
        );
    }
    let read = |file: &str| {
        fs::read_to_string(path.join(file))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let driver = driver_of(path);
    let mtu: u32 = read("mtu").parse().unwrap_or(0);
    let queues = fs::read_dir(path.join("queues"))
        .into_iter()
        .flatten()
        .flatten();
    let queues = queues.filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
    let native = NATIVE.contains(&driver.as_str());
    let found = format!(
        "{}, {}, MTU {mtu}, {} receive queue(s), {}",
        if driver.is_empty() {
            "unknown driver"
        } else {
            &driver
        },
        if native {
            "native XDP likely"
        } else {
            "generic XDP"
        },
        queues.count(),
        read("operstate"),
    );
    let up =
        u32::from_str_radix(read("flags").trim_start_matches("0x"), 16).is_ok_and(|f| f & 1 == 1);
    let (status, advice) = if !up {
        (Status::Problem, format!("set it up: ip link set {name} up"))
    } else if mtu > MTU_IN_ONE_PIECE && version(release).is_some_and(|v| v < (6, 6)) {
        (
            Status::Problem,
            format!(
                "this MTU needs kernel 6.6, or longer frames are dropped; lower it: ip link set {name} mtu 1500"
            ),
        )
    } else if path.join("master").exists() {
        let advice = "it belongs to a bridge or bond, which gets nothing while vswitch has it";
        (Status::Note, advice.into())
    } else if driver == "veth" {
        let advice = "vswitch completes its peer's checksums itself; `vswitch show port` says what else was found";
        (Status::Ok, advice.into())
    } else {
        (Status::Ok, String::new())
    };
    // What nobody wants to use is no problem.
    let status = if wanted || status == Status::Ok {
        status
    } else {
        Status::Note
    };
    Finding::new(&subject, status, found, &advice)
}

fn driver_of(path: &Path) -> String {
    if let Ok(target) = fs::read_link(path.join("device/driver")) {
        return target
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
    }
    let uevent = fs::read_to_string(path.join("uevent")).unwrap_or_default();
    if let Some(kind) = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVTYPE="))
    {
        return kind.to_owned();
    }
    let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    if path.join("tun_flags").exists() {
        "tun".into()
    } else if read("ifindex") != read("iflink") {
        "veth".into()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_version() {
        assert_eq!(kernel("5.4.0-x").status, Status::Problem);
        assert_eq!(kernel("5.9.1").status, Status::Note);
        let finding = kernel("6.1.0-18-amd64");
        assert_eq!(finding.status, Status::Note);
        assert!(finding.found.contains("6.6") && finding.found.contains("6.8"));
        let finding = kernel("6.6.30");
        assert_eq!(finding.status, Status::Note);
        assert!(finding.found.contains("6.8"));
        assert_eq!(kernel("6.12.3").status, Status::Ok);
        assert_eq!(kernel("strange").status, Status::Note);
    }

    #[test]
    fn a_missing_option_is_named() {
        let text = "CONFIG_BPF_SYSCALL=y\nCONFIG_BPF_JIT=y\n# CONFIG_XDP_SOCKETS is not set\n";
        let finding = missing_options(text);
        assert_eq!(finding.status, Status::Problem);
        assert_eq!(finding.found, "without CONFIG_XDP_SOCKETS");
        let text = format!("{text}CONFIG_XDP_SOCKETS=y\n");
        assert_eq!(missing_options(&text).status, Status::Ok);
    }

    #[test]
    fn capabilities_are_read_from_the_mask() {
        let all = "CapEff:\t000001ffffffffff\n";
        assert_eq!(capabilities(all).status, Status::Ok);
        let finding = capabilities("CapEff:\t0000000000001000\n");
        assert_eq!(finding.found, "without CAP_NET_RAW, CAP_BPF");
        assert_eq!(capabilities("").status, Status::Problem);
    }

    #[test]
    fn a_missing_interface_is_a_problem_with_advice() {
        let finding = interface(Path::new("/nonexistent"), "veth9", true, "6.12.0");
        assert_eq!(finding.status, Status::Problem);
        assert!(!finding.advice.is_empty());
    }

    #[test]
    fn a_guest_and_the_switch_must_be_able_to_meet() {
        let folder = tempfile::tempdir().expect("temp");
        let wanted = |socket: &Path, role| VhostUser {
            socket: socket.to_owned(),
            role,
            socket_mode: 0o600,
            queues: 1,
            features: pmd::vhost_user::Features::default(),
            max_frame_bytes: 1514,
        };
        let socket = folder.path().join("vm.sock");
        let nowhere = folder.path().join("no/vm.sock");
        for role in [Role::Client, Role::Server] {
            let finding = guest_socket("p", &wanted(&nowhere, role));
            assert_eq!(finding.status, Status::Problem);
            assert!(!finding.advice.is_empty());
        }
        let judged = |role| guest_socket("p", &wanted(&socket, role)).status;
        assert_eq!(judged(Role::Server), Status::Ok);
        assert_eq!(judged(Role::Client), Status::Note);
        fs::write(&socket, "").expect("a file");
        assert_eq!(judged(Role::Client), Status::Ok);
    }

    #[test]
    fn everything_is_examined_without_a_switch() {
        let findings = examine(None);
        for subject in ["kernel", "AF_XDP", "capabilities", "hugepages", "cores"] {
            assert!(findings.iter().any(|f| f.subject == subject), "{subject}");
        }
        for finding in findings.iter().filter(|f| f.status == Status::Problem) {
            assert!(!finding.advice.is_empty(), "{finding:?}");
        }
    }
}
