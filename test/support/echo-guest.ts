// A guest of 512 bytes (on a disk of a MiB), which starts in a second under QEMU without KVM and sleeps while nothing is typed: a boot sector that says READY
// on its serial port and then sends back every byte it is sent; for a `!` a thousand lines, and at a `.` it powers itself off.
import { randomUUID } from 'node:crypto'
import { truncateSync, writeFileSync } from 'node:fs'

const GREETING = 'READY\r\n'
export const LINE = 'abcdefghijklmnopqrstuvwxyz0123456789\r\n'
export const LINES = 1000

/** 8086 code for 0x7c00; COM1's registers begin at 0x3f8, its status is 0x3fd. */
const code = [
  'fa 31c0 8ed8 8ed0 bc007c fb fc', //    cli; ds = ss = 0; sp = 0x7c00; sti; cld
  'be757c e84900', //                     print the greeting
  'bafd03 ec a801 7503 f4 ebf5', // main: while (!data ready) hlt: the timer wakes it
  'baf803 ec 3c21 7409', //               read; '!' → many
  '3c2e 7412 e83a00 ebe4', //             '.' → off; else put, and again
  'b9e803', //                      many: a thousand times
  'be7d7c e82400 e2f8 ebd7', //           print the line
  'b80153 31db cd15', //             off: APM: connect
  'b80e53 31db b90201 cd15', //           version 1.2
  'b80753 bb0100 b90300 cd15', //         all devices off
  'fa f4 ebfc', //                        not off: halt
  'ac 84c0 7405 e80300 ebf6 c3', // print: bytes up to 0
  '50 bafd03 ec a820 74f8 58 baf803 ee c3', // put: waits until the port takes a byte
]

/** The disk of such a guest. */
export function writeEchoDisk(path: string): void {
  const program = Buffer.from(code.join('').replaceAll(' ', ''), 'hex')
  const sector = Buffer.alloc(512)
  Buffer.concat([program, Buffer.from(`${GREETING}\0${LINE}\0`)]).copy(sector)
  sector.writeUInt16LE(0xaa55, 510)
  writeFileSync(path, sector, { mode: 0o644 })
  truncateSync(path, 2 ** 20) // SeaBIOS boots from no virtio disk that is smaller than a cylinder
}

/** A domain whose console it is; `metadata` and `uuid` as somebody else would set them. */
export const echoDomain = (name: string, disk: string, o: { uuid?: string; metadata?: string } = {}): string =>
  `<domain type='qemu'><name>${name}</name><uuid>${o.uuid ?? randomUUID()}</uuid>${o.metadata ? `<metadata>${o.metadata}</metadata>` : ''}` +
  `<memory unit='MiB'>16</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>` +
  `<features><acpi/></features><on_poweroff>destroy</on_poweroff><devices>` +
  `<disk type='file'><driver name='qemu' type='raw'/><source file='${disk}'/><target dev='hda' bus='ide'/></disk>` +
  `<serial type='pty'/><console type='pty'/></devices></domain>`
