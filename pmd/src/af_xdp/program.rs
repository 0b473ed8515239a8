//! The XDP program: hands every frame of a queue to the socket of that queue.
//!
//! In: an interface index, a mode, a number of queues. Out: an [`Attachment`] that holds the
//! program on the interface. What must hold: the program is attached by a BPF link, which the
//! kernel removes with the last file descriptor, so that it vanishes with this process however
//! it ends.
//!
//! Programs, assembled here by hand because they are short and so need no compiler and no
//! object file at run time:
//!
//! ```text
//!   plain:     return redirect_map(sockets, rx_queue_index, XDP_PASS)
//!   with tag:  if adjust_meta(-8) worked: meta = {TAGGED, OTHER_TAG or UNTAGGED; tci}; then as plain
//!   redirect:  return redirect(interface)                                            no socket at all
//! ```
//!
//! The second asks the driver for the VLAN tag that came beside the frame
//! (`bpf_xdp_metadata_rx_vlan_tag`, Linux 6.8; kernel doc: networking/xdp-rx-metadata). Such a
//! program is loaded for one interface and runs in native mode only. The kernel lets only a
//! program that declares a GPL-compatible licence call it: these programs, and nothing else of
//! this project, may also be used under the MIT licence or the GPL, version 2.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use libxdp_sys as sys;

use super::frames::{META_BYTES, META_OTHER_TAG, META_TAGGED, META_UNTAGGED};

/// `BPF_F_XDP_DEV_BOUND_ONLY` of `linux/bpf.h`.
const DEVICE_BOUND: u32 = 1 << 6;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of `linux/if_link.h`.
const GENERIC_MODE: u32 = 1 << 1;
const NATIVE_MODE: u32 = 1 << 2;
/// `BTF_KIND_FUNC` of `linux/btf.h`.
const KIND_FUNCTION: u32 = 12;

const TAG_FUNCTION: &CStr = c"bpf_xdp_metadata_rx_vlan_tag";

#[repr(C)]
struct Btf {
    _opaque: [u8; 0],
}

// libbpf is linked through libxdp-sys, whose bindings leave these out.
unsafe extern "C" {
    fn btf__load_vmlinux_btf() -> *mut Btf;
    fn btf__find_by_name_kind(btf: *const Btf, name: *const c_char, kind: u32) -> i32;
    fn btf__free(btf: *mut Btf);
    fn libbpf_set_print(print: Option<unsafe extern "C" fn()>) -> Option<unsafe extern "C" fn()>;
}

/// Where in the network stack the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver.
    Native,
    /// After the kernel made its own packet buffer: any driver, slower.
    Generic,
}

/// What a program is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) index: u32,
    pub(super) hook: Hook,
    /// Take frames that do not lie in one piece.
    pub(super) fragments: bool,
    /// Write the VLAN tag before the frame.
    pub(super) vlan_tag: bool,
}

/// The program on its interface, until this is dropped.
#[derive(Debug)]
pub(super) struct Attachment {
    sockets: OwnedFd,
    _link: OwnedFd,
}

impl Attachment {
    /// Makes the map of sockets, loads the program and attaches it.
    pub(super) fn new(request: Request, queues: u32) -> io::Result<Self> {
        let tag_function = if request.vlan_tag {
            Some(find_tag_function()?)
        } else {
            None
        };
        // SAFETY: the name is a C string, no options are given.
        let map = unsafe {
            sys::bpf_map_create(
                sys::bpf_map_type_BPF_MAP_TYPE_XSKMAP,
                c"vswitch_sockets".as_ptr(),
                4,
                4,
                queues,
                ptr::null(),
            )
        };
        let sockets = own(map)?;
        let program = assemble(sockets.as_raw_fd(), tag_function);
        Ok(Self {
            sockets,
            _link: attach(request, &program)?,
        })
    }

    /// Gives the frames of `queue` to the `AF_XDP` socket `socket` from now on.
    pub(super) fn set_socket(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        // SAFETY: key and value are 4 bytes each, as the map was made.
        let result = unsafe {
            sys::bpf_map_update_elem(
                self.sockets.as_raw_fd(),
                (&raw const queue).cast::<c_void>(),
                (&raw const socket).cast::<c_void>(),
                0,
            )
        };
        checked(result).map(drop)
    }
}

/// The number of the XDP program on an interface, whoever attached it.
pub(super) fn attached_program(index: u32) -> Option<u32> {
    // SAFETY: all zeros is a valid value of these plain options.
    let mut answer: sys::bpf_xdp_query_opts = unsafe { mem::zeroed() };
    answer.sz = mem::size_of_val(&answer);
    // SAFETY: `answer` says its own size and lives through the call.
    let result = unsafe { sys::bpf_xdp_query(index.cast_signed(), 0, &raw mut answer) };
    let programs = [answer.drv_prog_id, answer.skb_prog_id, answer.hw_prog_id];
    (result == 0)
        .then(|| programs.into_iter().find(|id| *id != 0))
        .flatten()
}

/// Keeps the C libraries from writing to standard error: what they would say is in our errors.
pub(super) fn silence_libraries() {
    // SAFETY: both take a null function for "print nothing" and keep no other state.
    unsafe {
        libbpf_set_print(None);
        sys::libxdp_set_print(None);
    }
}

fn find_tag_function() -> io::Result<u32> {
    // SAFETY: the BTF object is used between its load, checked for null, and its free.
    unsafe {
        let btf = btf__load_vmlinux_btf();
        if btf.is_null() {
            return Err(io::Error::last_os_error());
        }
        let id = btf__find_by_name_kind(btf, TAG_FUNCTION.as_ptr(), KIND_FUNCTION);
        btf__free(btf);
        checked(id).map(c_int::cast_unsigned)
    }
}

/// Puts on interface `from` a program that sends every frame out of interface `to`; the link that
/// holds it.
pub(super) fn redirect(from: u32, to: u32) -> io::Result<OwnedFd> {
    let request = Request {
        index: from,
        hook: Hook::Native,
        fragments: true,
        vlan_tag: false,
    };
    let program = [
        move_value(1, to.cast_signed()),
        move_value(2, 0),
        call_helper(REDIRECT),
        EXIT,
    ];
    attach(request, &program)
}

fn attach(request: Request, program: &[Instruction]) -> io::Result<OwnedFd> {
    let program = load(request, program)?;
    // SAFETY: all zeros is a valid value of these plain options.
    let mut options: sys::bpf_link_create_opts = unsafe { mem::zeroed() };
    options.sz = mem::size_of_val(&options);
    options.flags = match request.hook {
        Hook::Native => NATIVE_MODE,
        Hook::Generic => GENERIC_MODE,
    };
    // SAFETY: the descriptor is a loaded program's, the options live through the call.
    let link = unsafe {
        sys::bpf_link_create(
            program.as_raw_fd(),
            request.index.cast_signed(),
            sys::bpf_attach_type_BPF_XDP,
            &raw const options,
        )
    };
    own(link)
}

fn load(request: Request, program: &[Instruction]) -> io::Result<OwnedFd> {
    // SAFETY: all zeros is a valid value of these plain options.
    let mut options: sys::bpf_prog_load_opts = unsafe { mem::zeroed() };
    options.sz = mem::size_of_val(&options);
    options.expected_attach_type = sys::bpf_attach_type_BPF_XDP;
    if request.fragments {
        options.prog_flags |= sys::BPF_F_XDP_HAS_FRAGS;
    }
    if request.vlan_tag {
        options.prog_flags |= DEVICE_BOUND;
        options.prog_ifindex = request.index;
    }
    // SAFETY: `Instruction` is laid out as `bpf_insn` is; all pointers live through the call.
    let fd = unsafe {
        sys::bpf_prog_load(
            sys::bpf_prog_type_BPF_PROG_TYPE_XDP,
            c"vswitch".as_ptr(),
            c"Dual MIT/GPL".as_ptr(),
            program.as_ptr().cast::<sys::bpf_insn>(),
            program.len(),
            &raw mut options,
        )
    };
    own(fd)
}

/// libbpf returns `-errno`.
fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(result)
}

fn own(result: c_int) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: libbpf just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct bpf_insn`: operation, registers (source << 4 | destination), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: (src << 4) | dst,
        offset,
        immediate,
    }
}

// The instructions used, named after what they do (RFC 9669).
const fn move_register(dst: u8, src: u8) -> Instruction {
    op(0xbf, dst, src, 0, 0)
}
const fn move_value(dst: u8, value: i32) -> Instruction {
    op(0xb7, dst, 0, 0, value)
}
const fn add_value(dst: u8, value: i32) -> Instruction {
    op(0x07, dst, 0, 0, value)
}
const fn load_u32(dst: u8, src: u8, offset: i16) -> Instruction {
    op(0x61, dst, src, offset, 0)
}
const fn load_u16(dst: u8, src: u8, offset: i16) -> Instruction {
    op(0x69, dst, src, offset, 0)
}
const fn store_u32(dst: u8, offset: i16, src: u8) -> Instruction {
    op(0x63, dst, src, offset, 0)
}
const fn store_u64_value(dst: u8, offset: i16, value: i32) -> Instruction {
    op(0x7a, dst, 0, offset, value)
}
const fn skip_unless(register: u8, value: i32, count: i16) -> Instruction {
    op(0x55, register, 0, count, value)
}
const fn skip_if_greater(left: u8, right: u8, count: i16) -> Instruction {
    op(0x2d, left, right, count, 0)
}
const fn call_helper(number: i32) -> Instruction {
    op(0x85, 0, 0, 0, number)
}
const fn call_kernel_function(id: u32) -> Instruction {
    op(
        0x85,
        0,
        sys::BPF_PSEUDO_KFUNC_CALL as u8,
        0,
        id.cast_signed(),
    )
}
const EXIT: Instruction = op(0x95, 0, 0, 0, 0);

/// Offsets in `struct xdp_md`.
const MD_DATA: i16 = 0;
const MD_DATA_META: i16 = 8;
const MD_RX_QUEUE_INDEX: i16 = 16;
/// Helper numbers of `linux/bpf.h`.
const REDIRECT: i32 = 23;
const REDIRECT_MAP: i32 = 51;
const ADJUST_META: i32 = 54;
const XDP_PASS: i32 = 2;
/// 802.1Q, in network order.
const TAG_PROTOCOL: i32 = 0x8100_u16.to_be() as i32;

/// Instructions that write the metadata, when there is room for it.
const MARK_INSTRUCTIONS: i16 = 21;

fn assemble(sockets: RawFd, tag_function: Option<u32>) -> Vec<Instruction> {
    let mut program = vec![move_register(6, 1)];
    if let Some(function) = tag_function {
        let mark: [Instruction; MARK_INSTRUCTIONS as usize] = [
            // The tag: its protocol goes to fp-8, its TCI to fp-4.
            store_u64_value(10, -8, 0),
            move_register(1, 6),
            move_register(2, 10),
            add_value(2, -8),
            move_register(3, 10),
            add_value(3, -4),
            call_kernel_function(function),
            move_value(7, META_UNTAGGED.cast_signed()),
            skip_unless(0, 0, 4),
            move_value(7, META_OTHER_TAG.cast_signed()),
            load_u16(8, 10, -8),
            skip_unless(8, TAG_PROTOCOL, 1),
            move_value(7, META_TAGGED.cast_signed()),
            load_u16(8, 10, -4),
            // The verifier wants to see that the metadata ends before the data.
            load_u32(2, 6, MD_DATA_META),
            load_u32(3, 6, MD_DATA),
            move_register(4, 2),
            add_value(4, i32::from(META_BYTES)),
            skip_if_greater(4, 3, 2),
            store_u32(2, 0, 7),
            store_u32(2, 4, 8),
        ];
        program.extend([
            move_value(2, -i32::from(META_BYTES)),
            call_helper(ADJUST_META),
            skip_unless(0, 0, MARK_INSTRUCTIONS),
        ]);
        program.extend(mark);
    }
    program.extend([
        load_u32(2, 6, MD_RX_QUEUE_INDEX),
        // The map, by descriptor, in an immediate of 64 bits that takes two slots.
        op(0x18, 1, sys::BPF_PSEUDO_MAP_FD as u8, 0, sockets),
        op(0, 0, 0, 0, 0),
        move_value(3, XDP_PASS),
        call_helper(REDIRECT_MAP),
        EXIT,
    ]);
    program
}

const _: () = assert!(mem::size_of::<Instruction>() == mem::size_of::<sys::bpf_insn>());
const _: () = assert!(mem::size_of::<c_uint>() == 4);
