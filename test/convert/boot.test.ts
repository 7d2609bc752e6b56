// A real guest, exported as hypervisors export it, converted by the job, and booted: what it reads from its disk is what was put
// there, and what it writes is there when it boots again.
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Config } from '../../src/config/index.ts'
import { convertDirectly } from '../../src/jobs/direct.ts'
import type { ConvertManifest } from '../../src/manifest/index.ts'
import { exportOva } from '../support/export-ova.ts'
import { privateLibvirt } from '../support/libvirt.ts'
import { guestSaid, makeTinyGuest } from '../support/tiny-guest.ts'
import { assertSame, bench, disk, tempFolder } from './harness.ts'

const dir = tempFolder()
const proof = `proof ${randomUUID()}`
const raw = join(dir, 'tiny.raw')
let ova = ''
/** SYSLINUX and the kernel are for x86; QEMU emulates it elsewhere too, but nothing installs them there. */
const possible = process.arch === 'x64'

beforeAll(async () => {
  if (!possible) return
  await makeTinyGuest(raw, proof)
  const vmdk = join(dir, 'tiny.vmdk')
  await execa('qemu-img', ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, vmdk])
  ova = await exportOva('tiny', [{ path: vmdk, capacity_bytes: 64 * 2 ** 20 }])
}, 300_000)
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Boots an image under QEMU without KVM until the guest powers off; writes go into the image. */
async function boot(image: string, format: string): Promise<string> {
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-machine', 'q35,accel=tcg', '-m', '256', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
      ...['-serial', 'stdio', '-drive', `file=${image},format=${format},if=virtio`],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const deadline = setTimeout(() => child.kill('SIGKILL'), 550_000)
  let said = ''
  child.stdout.on('data', (d: Buffer) => (said += d.toString('latin1')))
  child.stderr.on('data', (d: Buffer) => (said += d.toString('latin1')))
  try {
    const ended = await new Promise((resolve, reject) => {
      child.on('error', reject)
      child.on('close', (code, signal) => resolve(signal ?? code))
    })
    expect(ended, said.slice(-2000)).toBe(0)
    return said
  } finally {
    clearTimeout(deadline)
  }
}

test.runIf(possible)(
  'a guest boots from the zero-copied image of its OVA, then from <name>.xml in libvirt, and finds what it wrote',
  async () => {
    await using libvirt = await privateLibvirt()
    const out = join(libvirt.dir, 'out')
    const { files } = await convertDirectly({
      manifest: {
        kind: 'convert',
        manifest_version: '1.0',
        priority: 5,
        name: 'tiny',
        disks: [disk(ova, 'ova')],
        compress: true,
        convert: { path: 'zero-copy' },
      } as unknown as ConvertManifest,
      outputDir: out,
      config: {} as Config,
    })
    const image = join(out, 'tiny.qcow2')
    expect(files).toEqual(['tiny.report.json', 'tiny.xml', 'tiny.qcow2'].map((f) => join(out, f)))
    assertSame(raw, 'raw', image, 'qcow2')

    const first = guestSaid(await boot(image, 'qcow2'))
    expect(first.read).toBe(proof)
    expect(first.found).toBeUndefined()
    expect(first.wrote).toMatch(/^[0-9a-f-]{36}$/)

    libvirt.handOver(image)
    const second = guestSaid(await libvirt.runToEnd(join(out, 'tiny.xml'), { deadline_ms: 500_000 }))
    expect(second.read).toBe(proof)
    expect(second.found).toBe(first.wrote)
    expect(second.wrote).not.toBe(first.wrote)
    await execa('qemu-img', ['check', '-q', '-f', 'qcow2', image])
  },
  600_000,
)

test.runIf(possible)(
  'and from a plain one, inflated in parallel',
  async () => {
    const b = bench()
    try {
      await b.run({
        compress: false,
        disks: [disk(ova, 'ova')],
        output: { format: 'raw' },
        convert: { path: 'inflate' },
      })
      const said = guestSaid(await boot(join(b.answerDir, 'vm.raw'), 'raw'))
      expect(said).toMatchObject({ read: proof, found: undefined, wrote: expect.stringMatching(/^[0-9a-f-]{36}$/) })
    } finally {
      b.close()
    }
  },
  600_000,
)
