//! A drive in a few lines, and what is made of its answers.

use std::sync::{Arc, Mutex};
use std::vec::Vec;

use abi::Errno;
use block::{Asker, Medium, Purpose};

use crate::cdb::op;
use crate::{Cdb, Cdrom, Condition, Data, Failure, Inquiry, Sense, Transport};

const NO_MEDIUM: Sense = Sense { key: 2, code: 0x3a, qualifier: 1 };
const TRAY_OPEN: Sense = Sense { key: 2, code: 0x3a, qualifier: 2 };
const CHANGED: Sense = Sense { key: 6, code: 0x28, qualifier: 0 };
const ILLEGAL: Sense = Sense { key: 5, code: 0x20, qualifier: 0 };

#[derive(Default)]
struct State {
    blocks: Option<u32>,
    is_open: bool,
    is_locked: bool,
    attentions: usize,
    seen: Vec<u8>,
}

#[derive(Default)]
struct Model(Mutex<State>);

impl Model {
    fn answer(&self, cdb: &Cdb, data: &mut [u8]) -> Result<usize, Failure> {
        let mut state = self.0.lock().unwrap();
        state.seen.push(cdb.operation());
        if state.attentions > 0 {
            state.attentions -= 1;
            return Err(Failure::Check(CHANGED));
        }
        let absent = if state.is_open { TRAY_OPEN } else { NO_MEDIUM };
        let blocks = state.blocks.filter(|_| !state.is_open).ok_or(Failure::Check(absent));
        let bytes: Vec<u8> = match cdb.operation() {
            op::TEST_UNIT_READY => blocks.map(|_| Vec::new())?,
            op::READ_CAPACITY_10 => [(blocks? - 1).to_be_bytes(), 2048u32.to_be_bytes()].concat(),
            op::READ_TOC => {
                blocks?;
                let (track, lead_out) =
                    ([0, 0x14, 1, 0, 0, 0, 0, 0], [0, 0x16, 0xaa, 0, 0, 0, 1, 0]);
                [&[0, 18, 1, 1][..], &track, &lead_out].concat()
            }
            op::MODE_SENSE_10 => {
                let mut page = std::vec![0; 28];
                page[8] = 0x2a;
                (page[10], page[12], page[14]) = (8, 1, 0x29);
                page
            }
            op::START_STOP_UNIT if state.is_locked && cdb.bytes()[4] & 1 == 0 => {
                return Err(Failure::Check(Sense { key: 5, code: 0x53, qualifier: 2 }));
            }
            op::START_STOP_UNIT => {
                state.is_open = cdb.bytes()[4] & 1 == 0;
                Vec::new()
            }
            op::PREVENT_ALLOW => {
                state.is_locked = cdb.bytes()[4] & 1 != 0;
                Vec::new()
            }
            _ => return Err(Failure::Check(ILLEGAL)),
        };
        let count = bytes.len().min(data.len());
        data[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }
}

impl Transport for Model {
    fn execute(&self, cdb: &Cdb, data: Data<'_>, _: u64) -> Result<usize, Failure> {
        match data {
            Data::In(data) => self.answer(cdb, data),
            _ => self.answer(cdb, &mut []),
        }
    }
}

fn drive(blocks: Option<u32>) -> (Arc<Model>, Cdrom) {
    let model = Arc::new(Model::default());
    model.0.lock().unwrap().blocks = blocks;
    let cdrom = Cdrom::new(model.clone());
    (model, cdrom)
}

const ALONE: Asker = Asker { users: 1, may_administer: true, may_do_raw_io: true };

#[test]
fn an_open_drive_is_locked_and_measured() {
    let (model, cdrom) = drive(Some(1000));
    model.0.lock().unwrap().attentions = 2;
    assert_eq!(cdrom.opened(Purpose::Read), Ok(Some(Medium { sectors: 4000, is_new: true })));
    assert!(model.0.lock().unwrap().is_locked);
    cdrom.closed();
    assert!(!model.0.lock().unwrap().is_locked);
    assert_eq!(cdrom.opened(Purpose::Write), Err(Errno::EROFS));
}

#[test]
fn without_a_medium_only_looking_works() {
    let (model, cdrom) = drive(None);
    assert_eq!(cdrom.opened(Purpose::Read), Err(Errno::ENOMEDIUM));
    assert_eq!(cdrom.opened(Purpose::Look), Ok(None));
    assert_eq!(cdrom.ioctl(ALONE, 0x5326, 0), Ok(1));
    model.0.lock().unwrap().is_open = true;
    assert_eq!(cdrom.ioctl(ALONE, 0x5326, 0), Ok(2));
    // An open tray is closed for who wants to read.
    model.0.lock().unwrap().blocks = Some(10);
    assert_eq!(cdrom.opened(Purpose::Read), Ok(Some(Medium { sectors: 40, is_new: true })));
}

#[test]
fn the_tray_opens_unless_the_door_is_locked() {
    let (model, cdrom) = drive(Some(10));
    let other = Asker { users: 2, may_administer: false, ..ALONE };
    assert_eq!(cdrom.ioctl(ALONE, 0x5329, 1), Ok(0));
    assert_eq!(cdrom.ioctl(ALONE, 0x5309, 0), Ok(2), "the drive refuses");
    assert_eq!(cdrom.ioctl(ALONE, 0x530f, 1), Err(Errno::EBUSY));
    assert_eq!(cdrom.ioctl(other, 0x5329, 0), Err(Errno::EBUSY));
    assert_eq!(cdrom.ioctl(ALONE, 0x5329, 0), Ok(0));
    assert_eq!(cdrom.ioctl(other, 0x5309, 0), Ok(0));
    assert!(model.0.lock().unwrap().is_open);
    assert_eq!(cdrom.ioctl(ALONE, 0x5319, 0), Ok(0));
    assert!(!model.0.lock().unwrap().is_open);
    assert_eq!(cdrom.ioctl(ALONE, 0x5323, 0), Err(Errno::ENOTTY));
    assert_eq!(cdrom.ioctl(ALONE, 0x1234, 0), Err(Errno::ENOTTY));
    assert_eq!(cdrom.ioctl(ALONE, 0x5301, 0), Err(Errno::EOPNOTSUPP));
}

#[test]
fn capabilities_and_contents() {
    let (_, cdrom) = drive(Some(256));
    // Play audio, DVD, lock, open, close, and what each drive does.
    assert_eq!(cdrom.ioctl(ALONE, 0x5331, 0), Ok(0x38_9bef));
    assert_eq!(cdrom.ioctl(ALONE, 0x5327, 0), Ok(101));
    assert_eq!(cdrom.ioctl(ALONE, 0x5325, i32::MAX as usize), Ok(1));
    assert_eq!(cdrom.ioctl(ALONE, 0x5325, i32::MAX as usize), Ok(0));
}

#[test]
fn sense_data_in_both_formats() {
    assert_eq!(Sense::parse(&NO_MEDIUM.to_bytes()), Some(NO_MEDIUM));
    assert_eq!(Sense::parse(&[0x72, 2, 0x3a, 1]), Some(NO_MEDIUM));
    assert_eq!(Sense::parse(&[0x70, 0, 3]), Some(Sense { key: 3, code: 0, qualifier: 0 }));
    assert_eq!((Sense::parse(&[]), Sense::parse(&[0x12; 18])), (None, None));
    let conditions = [
        (NO_MEDIUM, Errno::EIO, Errno::ENOMEDIUM),
        (ILLEGAL, Errno::EREMOTEIO, Errno::EOPNOTSUPP),
        (Sense { key: 7, code: 0x27, qualifier: 7 }, Errno::ENOSPC, Errno::EIO),
    ];
    for (sense, of_request, of_command) in conditions {
        assert_eq!(sense.condition(), Condition::Failed(of_request));
        assert_eq!(sense.to_errno(), of_command);
    }
    assert_eq!(CHANGED.condition(), Condition::Again);
}

#[test]
fn commands_are_as_short_as_they_can_be() {
    assert_eq!(Cdb::read(0x1234, 8).bytes(), [0x28, 0, 0, 0, 0x12, 0x34, 0, 0, 8, 0]);
    let long = Cdb::write(1 << 32, 1, true);
    assert_eq!(long.bytes(), [0x8a, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(Cdb::read(0, 65536).bytes().len(), 16);
    assert_eq!((Cdb::from_bytes(&[]), Cdb::from_bytes(&[0; 17])), (None, None));
}

#[test]
fn inquiries_of_nothing_are_none() {
    let mut data = [b' '; 36];
    (data[0], data[1]) = (5, 0x80);
    data[16..20].copy_from_slice(b"DVD\0");
    let found = Inquiry::parse(&data).unwrap();
    assert_eq!((found.kind, found.is_removable, &found.model[..4]), (5, true, "DVD "));
    data[0] = 0x7f;
    assert_eq!((Inquiry::parse(&data), Inquiry::parse(&[0; 35])), (None, None));
}
