//! The BPF program that makes the second generator port answer the first.
//!
//! testpmd's flowgen sends the same two Ethernet addresses from every port. A bridge would see one
//! station that moves from port to port with every burst. So the frames that leave port 1 have
//! their addresses exchanged, by a program that testpmd runs on them: two byte stores, for which it
//! takes an ELF object, which is made here (System V ABI, ELF-64 object file format; BPF opcodes as
//! in the kernel's Documentation/bpf/standardization/instruction-set.rst).

/// The last byte of flowgen's destination address 00:01:02:03:04:01, exchanged.
const DST_LAST: u8 = 0;
/// The last byte of its source address 00:01:02:03:04:00, exchanged.
const SRC_LAST: u8 = 1;

/// Where those bytes are in an Ethernet header.
const DST_LAST_AT: i16 = 5;
const SRC_LAST_AT: i16 = 11;

const STORE_BYTE: u8 = 0x72;
const MOVE: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// Names of the sections, and where each begins.
const NAMES: &[u8] = b"\0.text\0.symtab\0.strtab\0";
const TEXT_NAME: u32 = 1;
const SYMTAB_NAME: u32 = 7;
const STRTAB_NAME: u32 = 15;

const HEADER_BYTES: u64 = 64;
const SECTION_BYTES: u16 = 64;
const SYMBOL_BYTES: u64 = 24;

/// The object file.
pub(super) fn object() -> Vec<u8> {
    // r1 is the frame; what is returned says whether it is sent.
    let code: Vec<u8> = [
        instruction(STORE_BYTE, 1, DST_LAST_AT, DST_LAST),
        instruction(STORE_BYTE, 1, SRC_LAST_AT, SRC_LAST),
        instruction(MOVE, 0, 0, 1),
        instruction(EXIT, 0, 0, 0),
    ]
    .concat();
    let symbols_at = HEADER_BYTES + code.len() as u64;
    let names_at = symbols_at + SYMBOL_BYTES;
    let names_bytes = NAMES.len().next_multiple_of(8);
    let sections_at = names_at + names_bytes as u64;

    let mut file = header(sections_at);
    file.extend(&code);
    // The symbol table has its empty first entry only.
    file.resize(file.len() + SYMBOL_BYTES as usize, 0);
    file.extend(NAMES);
    file.resize(sections_at as usize, 0);
    // (name, type, flags, offset, bytes, link, info, alignment, entry size); the first is empty.
    file.extend([0; SECTION_BYTES as usize]);
    file.extend(section(
        [TEXT_NAME, 1],
        [6, 0, HEADER_BYTES, code.len() as u64],
        [0, 0],
        [8, 0],
    ));
    file.extend(section(
        [SYMTAB_NAME, 2],
        [0, 0, symbols_at, SYMBOL_BYTES],
        [3, 1],
        [8, SYMBOL_BYTES],
    ));
    file.extend(section(
        [STRTAB_NAME, 3],
        [0, 0, names_at, NAMES.len() as u64],
        [0, 0],
        [1, 0],
    ));
    file
}

fn instruction(opcode: u8, register: u8, offset: i16, immediate: u8) -> [u8; 8] {
    let [low, high] = offset.to_le_bytes();
    [opcode, register, low, high, immediate, 0, 0, 0]
}

/// A relocatable object of BPF code with four sections, whose names are in the last.
fn header(sections_at: u64) -> Vec<u8> {
    const RELOCATABLE: u16 = 1;
    const BPF: u16 = 247;
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend([RELOCATABLE, BPF].map(u16::to_le_bytes).concat());
    header.extend(1_u32.to_le_bytes());
    header.extend([0, 0, sections_at].map(u64::to_le_bytes).concat());
    header.extend(0_u32.to_le_bytes());
    let sizes = [HEADER_BYTES as u16, 0, 0, SECTION_BYTES, 4, 3];
    header.extend(sizes.map(u16::to_le_bytes).concat());
    header
}

/// A section header: (name, type), (flags, address, offset, bytes), (link, info), (alignment,
/// bytes of an entry).
fn section(kind: [u32; 2], place: [u64; 4], links: [u32; 2], layout: [u64; 2]) -> Vec<u8> {
    [
        kind.map(u32::to_le_bytes).concat(),
        place.map(u64::to_le_bytes).concat(),
        links.map(u32::to_le_bytes).concat(),
        layout.map(u64::to_le_bytes).concat(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&bytes[at..at + N]);
        u64::from_le_bytes(wide)
    }

    #[test]
    fn sections_lie_where_the_headers_say() {
        let file = object();
        let (sections, names) = (
            number::<8>(&file, 40) as usize,
            number::<2>(&file, 62) as usize,
        );
        let field = |section: usize, at: usize| {
            number::<8>(&file, sections + section * usize::from(SECTION_BYTES) + at) as usize
        };
        assert_eq!(file.len(), sections + 4 * usize::from(SECTION_BYTES));
        let name = |section: usize| {
            let at = field(names, 24) + field(section, 0) % (1 << 32);
            file[at..].split(|byte| *byte == 0).next().expect("a name")
        };
        let all: Vec<&[u8]> = (1..4).map(name).collect();
        assert_eq!(all, [&b".text"[..], b".symtab", b".strtab"]);
        let code = &file[field(1, 24)..][..field(1, 32)];
        assert_eq!(code.len(), 4 * 8);
        // dst[5] = 0, src[5] = 1, return 1.
        assert_eq!(code[..8], [0x72, 1, 5, 0, 0, 0, 0, 0]);
        assert_eq!(code[8..16], [0x72, 1, 11, 0, 1, 0, 0, 0]);
        assert_eq!(code[24], 0x95);
    }
}
