// The parts of guest fixing that need no appliance: what tools say, what they are told, and that nothing hostile gets through.
import { execFileSync, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from '../support/fc.ts'
import { XMLParser } from 'fast-xml-parser'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { clearSockets, sweep } from '../../src/convert/fix/appliance.ts'
import { customizeArgs, quoted } from '../../src/convert/fix/customize.ts'
import { guestInfoOf } from '../../src/convert/fix/inspector.ts'
import { messageReader } from '../../src/convert/fix/messages.ts'
import { applianceKernel, NotPossible, parseFeatures, probeV2v } from '../../src/convert/fix/programs.ts'
import { factsOf, notOffered, sourceDomain } from '../../src/convert/fix/v2v.ts'
import { guestPlan } from '../../src/jobs/convert-fix.ts'
import type { ConvertManifest } from '../../src/manifest/index.ts'
import { identify } from '../../src/process/index.ts'
import { accepted, minimal, parse } from '../manifest/samples.ts'
import { tempFolder } from './harness.ts'

let dir: string
beforeAll(() => {
  dir = tempFolder()
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

describe('what virt-v2v says', () => {
  // Word for word what virt-v2v-in-place 2.2.0 of Debian 12 printed.
  const real = [
    '{ "message": "Setting up the source: -i libvirtxml dom.xml", "timestamp": "2026-11-21T07:24:39.985457171+00:00", "type": "message" }',
    '[   0.0] Setting up the source: -i libvirtxml dom.xml',
    '3/100',
    '{ "message": "could not determine a way to update the configuration of Grub2", "timestamp": "2026-11-21T07:25:19.132985117+00:00", "type": "warning" }',
    'virt-v2v-in-place: warning: could not determine a way to update the configuration of Grub2',
    '{ "message": "inspection could not detect the source guest (or physical machine).\\n\\nNo root device found.", "timestamp": "2026-11-21T07:22:52.162337611+00:00", "type": "error" }',
    '{ "message": 7 }',
    '{ half of a message',
  ].join('\n')

  const read = (pieces: readonly string[]) => {
    const seen: unknown[] = []
    const r = messageReader({
      onMessage: (m) => seen.push(m),
      onPercent: (p) => seen.push(p),
      onOther: (l) => seen.push(`other: ${l.slice(0, 10)}`),
    })
    for (const p of pieces) r.feed(p)
    r.end()
    return seen
  }

  test('JSON messages and percentages are told from lines for people', () => {
    expect(read([real])).toEqual([
      { type: 'message', text: 'Setting up the source: -i libvirtxml dom.xml' },
      'other: [   0.0] S',
      3,
      { type: 'warning', text: 'could not determine a way to update the configuration of Grub2' },
      'other: virt-v2v-i',
      { type: 'error', text: expect.stringContaining('No root device found.') },
      'other: { "message',
      'other: { half of ',
    ])
  })

  test('in whatever pieces it comes', () => {
    const whole = read([real])
    fc.assert(
      fc.property(fc.array(fc.nat({ max: real.length }), { maxLength: 12 }), (cuts) => {
        const at = [0, ...cuts.sort((a, b) => a - b), real.length]
        expect(read(at.slice(1).map((end, i) => real.slice(at[i], end)))).toEqual(whole)
      }),
      { numRuns: 200 },
    )
  })

  test('the features of an installed version', () => {
    const text =
      'virt-v2v-in-place\nvirt-v2v-in-place-2.0\nlibguestfs-rewrite\ncolours-option\nin-place\nio\nmac-option\nmac-ip-option\ninput:disk\ninput:libvirt\ninput:libvirtxml\ninput:ova\ninput:vmx\nconvert:linux\nconvert:windows\novf:ovirt\novf:rhvexp\n'
    const f = parseFeatures(text)
    expect([f.has('in-place'), f.has('input:libvirtxml'), f.has('convert:windows'), f.has('output:local')]).toEqual([
      true,
      true,
      true,
      false,
    ])
  })

  test('what was done is read from the trace, not from what was asked for', async () => {
    const log = join(dir, 'v2v.log')
    writeFileSync(
      log,
      [
        'i_distro = debian',
        'i_product_name = 12.15',
        'libguestfs: trace: v2v: command "/usr/bin/perl -MBootloader::Tools -e1"',
        'libguestfs: trace: v2v: command "/usr/sbin/update-initramfs -v -c -k 6.1.0-50-amd64"',
        'libguestfs: trace: v2v: command = "/usr/sbin/grub-mkconfig is not called"',
        'gcaps_block_bus = virtio-blk',
        'gcaps_net_bus = virtio-net',
      ].join('\n'),
    )
    expect(await factsOf(log)).toEqual({
      grub_updated: false,
      initramfs_regenerated: true,
      vmware_tools_removed: false,
      fstab_renamed: false,
      guest: 'debian 12.15',
      block_bus: 'virtio-blk',
      net_bus: 'virtio-net',
    })
    writeFileSync(
      log,
      [
        'libguestfs: trace: v2v: command "grub2-mkconfig -o /boot/grub2/grub.cfg"',
        'libguestfs: trace: v2v: command "rpm -e open-vm-tools"',
        'libguestfs: trace: v2v: aug_set "/files/etc/fstab/1/spec" "/dev/vda1"',
      ].join('\n'),
    )
    expect(await factsOf(log)).toMatchObject({ grub_updated: true, vmware_tools_removed: true, fstab_renamed: true })
  })
})

describe('what virt-v2v is told', () => {
  test('a domain of our overlays alone, whatever they are called', () => {
    const paths = [`/x/a&b'<"c>.qcow2`, ...Array.from({ length: 27 }, (_, i) => `/x/${i}.qcow2`)]
    const xml = sourceDomain('we"b<', { firmware: 'uefi', memory_bytes: 2 ** 30, cpus: 2 }, paths)
    const { domain } = new XMLParser({
      ignoreAttributes: false,
      attributeNamePrefix: '',
      processEntities: true,
      htmlEntities: true,
    }).parse(xml)
    expect(domain.devices.disk.map((d: { source: { file: string } }) => d.source.file)).toEqual(paths)
    expect(domain.devices.disk.at(-1)).toMatchObject({ driver: { type: 'qcow2' }, target: { dev: 'sdab' } })
    expect(domain.os.firmware).toBe('efi')
    expect(domain.name).toBe('we"b<')
  })

  test('options that it has not are named, one by one; the others are silent', () => {
    expect(notOffered({ update_grub: true, regen_initramfs: true, remove_vmware_tools: true, backup: true })).toEqual(
      [],
    )
    const all = notOffered({
      update_grub: false,
      regen_initramfs: false,
      remove_vmware_tools: false,
      fstab_mode: 'noop',
    })
    expect(all.map((s) => /^pipeline\.fix\.(\w+): .* is not offered by virt-v2v: /.exec(s)?.[1])).toEqual([
      'update_grub',
      'regen_initramfs',
      'fstab_mode',
      'remove_vmware_tools',
    ])
  })
})

describe('what is missing is named, and what to do', () => {
  test('virt-v2v-in-place', async () => {
    const e = await probeV2v({ accelerator: 'auto', virt_v2v_in_place: join(dir, 'nowhere') }).catch((x: unknown) => x)
    expect(e).toBeInstanceOf(NotPossible)
    expect((e as NotPossible).hint).toContain('apt-get install virt-v2v')
  })

  test('a program of that name that is another one', async () => {
    const program = join(dir, 'virt-v2v-in-place')
    writeFileSync(program, '#!/bin/sh\necho virt-v2v\necho output:local\n')
    chmodSync(program, 0o755)
    await expect(probeV2v({ accelerator: 'auto', virt_v2v_in_place: program })).rejects.toThrow(
      'cannot convert in place from libvirt XML (its features: virt-v2v, output:local)',
    )
  })

  test('an appliance or a kernel that is not there, or has no modules', async () => {
    const why = async (s: object) => {
      const e = await applianceKernel({ accelerator: 'auto', ...s }).catch((x: unknown) => x)
      expect(e).toBeInstanceOf(NotPossible)
      return `${(e as NotPossible).message} ${(e as NotPossible).hint}`
    }
    expect(await why({ appliance: dir })).toContain('holds no readable "kernel"')
    const boot = join(dir, 'k', 'boot')
    mkdirSync(boot, { recursive: true })
    const kernel = join(boot, 'vmlinuz-6.1.0-9')
    const named = await why({ kernel })
    // a host without libguestfs lacks supermin first
    if (!named.includes('supermin is not installed')) {
      expect(named).toContain(`The kernel ${kernel} cannot be read.`)
      writeFileSync(kernel, 'x')
      expect(await why({ kernel })).toContain('lib/modules/6.1.0-9/modules.dep is missing')
    }
  })
})

describe('configuration', () => {
  const guest = (configuration: object) => ({ ...minimal, configuration })
  const plan = (configuration: object) => guestPlan(accepted(guest(configuration)).manifest as ConvertManifest, {}).fix!

  test('becomes accounts, units, names and files', () => {
    const p = plan({
      users: {
        create: [{ name: 'ops', uid: 1500, groups: ['sudo'], ssh_keys: ['ssh-ed25519 AAAA ops'], sudo: true }],
        disable: ['guest'],
      },
      services: { enable: ['sshd'], disable: ['cups.service'], mask: ['x@y.timer'] },
      hostname: { name: 'web', domain: 'example.org', hosts: { '192.0.2.1': 'a b', c: '2001:db8::1' } },
      network: {
        files: [
          { type: 'network', name: 'lan', content: '[Match]\n' },
          { type: 'nmconnection', name: 'up', priority: 5, content: '' },
        ],
      },
    })
    expect(p.options).toBeUndefined()
    expect(p.configuration).toEqual({
      users: {
        create: [
          {
            name: 'ops',
            uid: 1500,
            groups: ['sudo'],
            ssh_keys: ['ssh-ed25519 AAAA ops'],
            sudo: 'ALL=(ALL:ALL) NOPASSWD: ALL',
          },
        ],
        disable: ['guest'],
      },
      services: { enable: ['sshd'], disable: ['cups.service'], mask: ['x@y.timer'] },
      hostname: { name: 'web', domain: 'example.org' },
      hosts: [
        { address: '192.0.2.1', names: ['a', 'b'] },
        { address: '2001:db8::1', names: ['c'] },
      ],
      files: [
        { path: '/etc/systemd/network/10-lan.network', mode: '0644', content: '[Match]\n' },
        { path: '/etc/NetworkManager/system-connections/up.nmconnection', mode: '0600', content: '' },
      ],
    })
    expect(guestPlan(accepted(guest({})).manifest as ConvertManifest, {})).toEqual({})
  })

  test.each([
    [{ users: { create: [{ name: 'a; rm -rf /' }] } }],
    [{ users: { create: [{ name: '-r' }] } }],
    [{ users: { create: [{ name: 'ops\n' }] } }],
    [{ users: { create: [{ name: 'ops', uid: 0 }] } }],
    [{ users: { create: [{ name: 'ops', groups: ["a'b"] }] } }],
    [{ users: { create: [{ name: 'ops', ssh_keys: ['ssh-ed25519 AAAA a\nssh-ed25519 BBBB b'] }] } }],
    [{ users: { create: [{ name: 'ops', ssh_keys: ['command="id" ssh-ed25519 AAAA'] }] } }],
    [{ users: { create: [{ name: 'ops', sudo: 'ALL=ALL\nroot ALL=ALL' }] } }],
    [{ users: { disable: ['../x'] } }],
    [{ services: { enable: ['--now'] } }],
    [{ services: { mask: ['a b'] } }],
    [{ services: { mask: ['a/../b'] } }],
    [{ hostname: '$(id)' }],
    [{ hostname: { name: 'a', domain: 'b\nc' } }],
    [{ hostname: { hosts: { 'not an address': 'not one' } } }],
    [{ hostname: { hosts: { '192.0.2.1': 'a\n0.0.0.0 b' } } }],
    [{ network: { files: [{ type: 'network', name: '../../etc/shadow', content: '' }] } }],
    [{ network: { files: [{ type: 'network', name: 'a:b', content: '' }] } }],
    [{ network: { files: [{ type: 'passwd', name: 'a', content: '' }] } }],
    [{ network: { files: [{ type: 'network', name: 'a', content: 'a\0b' }] } }],
  ])('%j is refused when the manifest is read', (configuration) => {
    expect(parse(guest(configuration)).state).toBe('invalid')
  })

  test('nothing in quotes is special to a shell', () => {
    const text = fc.string({ unit: fc.constantFrom("'", '"', '\\', '$', '`', '\n', ' ', '*', ';', '(', 'a', 'é', '-') })
    fc.assert(
      fc.property(fc.array(text, { maxLength: 20 }), (values) => {
        const out = execFileSync('/bin/sh', ['-c', `printf '%s\\0' ${values.map(quoted).join(' ')}`], {
          encoding: 'utf8',
        })
        expect(out.split('\0').slice(0, -1)).toEqual(values.length === 0 ? [''] : values)
      }),
      { numRuns: 60 },
    )
  })

  test('goes to virt-customize in files, and its scripts parse', async () => {
    const secret = 'psk=correct horse:battery,staple'
    const p = plan({
      users: {
        create: [{ name: 'ops', groups: ['wheel'], ssh_keys: ['ssh-rsa AAAA x'], sudo: 'ALL=(root) /bin/ls' }],
        disable: ['old'],
      },
      services: { enable: ['a.service'], mask: ['b'] },
      hostname: { name: 'web', domain: 'example.org' },
      network: { files: [{ type: 'nmconnection', name: 'wifi', content: secret }] },
    })
    const work = join(dir, 'with:colon')
    mkdirSync(work)
    const { args, done } = await customizeArgs(p.configuration!, work)
    expect(args.join(' ')).not.toContain('psk')
    expect(args.join(' ')).not.toContain('colon')
    expect(args.slice(0, 2)).toEqual(['--hostname', 'web'])
    expect(args).toContain('0440:/etc/sudoers.d/90-vmspool-ops')
    expect(done).toEqual(
      expect.arrayContaining(['hostname web.example.org', 'user ops', 'disabled users: old', 'mask: b']),
    )
    const contents = new Map(
      readdirSync(join(work, 'conf')).map((f) => [f, readFileSync(join(work, 'conf', f), 'utf8')]),
    )
    expect([...contents.values()]).toContain(secret)
    expect([...contents.values()]).toContain('ops ALL=(root) /bin/ls\n')
    const scripts = args.flatMap((a, i) => (a === '--run' ? [args[i + 1]!] : []))
    expect(scripts.length).toBe(5)
    for (const s of scripts) execFileSync('/bin/sh', ['-n', join(work, s)])
  })
})

describe('virt-inspector', () => {
  // What virt-inspector 1.48.2 printed for a Debian 12.
  const real = `<?xml version="1.0"?>
<operatingsystems>
  <operatingsystem>
    <root>/dev/sda1</root>
    <name>linux</name>
    <arch>x86_64</arch>
    <distro>debian</distro>
    <product_name>12.15</product_name>
    <major_version>12</major_version>
    <minor_version>15</minor_version>
    <package_format>deb</package_format>
    <package_management>apt</package_management>
    <hostname>vmspool-guest</hostname>
    <osinfo>debian12</osinfo>
    <mountpoints>
      <mountpoint dev="/dev/sda1">/</mountpoint>
    </mountpoints>
  </operatingsystem>
</operatingsystems>`

  test('its XML becomes the fields of the report', () => {
    expect(guestInfoOf(real)).toEqual({
      type: 'linux',
      distro: 'debian',
      product_name: '12.15',
      major_version: 12,
      minor_version: 15,
      arch: 'x86_64',
      hostname: 'vmspool-guest',
      package_format: 'deb',
      osinfo: 'debian12',
      mountpoints: [{ device: '/dev/sda1', path: '/' }],
    })
  })

  test('no system is said to be none', () => {
    for (const xml of [
      '<operatingsystems/>',
      '<operatingsystems></operatingsystems>',
      '<?xml version="1.0"?><operatingsystems>\n</operatingsystems>',
    ])
      expect(() => guestInfoOf(xml)).toThrow('found no system on the disks')
  })
})

test("the sockets of libguestfs that a log names are removed, and nobody else's", async () => {
  const log = join(dir, 'sockets.log')
  const mine = '/tmp/libguestfsVsTst1'
  mkdirSync(mine)
  writeFileSync(join(mine, 'guestfsd.sock'), '')
  mkdirSync(join(dir, 'libguestfsAbCdEf'))
  writeFileSync(
    log,
    `-chardev socket,path=${mine}/guestfsd.sock,id=channel0\n${dir}/libguestfsAbCdEf/guestfsd.sock\n/tmp/libguestfs../x/guestfsd.sock\n`,
  )
  await clearSockets(log)
  expect(readdirSync('/tmp').includes('libguestfsVsTst1')).toBe(false)
  expect(readdirSync(dir)).toContain('libguestfsAbCdEf')
})

test('private folders of processes that were killed are removed, with the sockets in their logs; those of others stay', async () => {
  const parent = join(dir, 'tmp')
  const logs = join(dir, 'logs')
  mkdirSync(parent)
  mkdirSync(logs)
  const child = spawn('sleep', ['600'], { stdio: 'ignore' })
  const dead = identify(child.pid!)!
  const ended = new Promise((resolve) => child.on('close', resolve))
  child.kill('SIGKILL')
  await ended
  const socket = '/tmp/libguestfsVsTst2'
  mkdirSync(socket)
  writeFileSync(join(logs, 'virt-v2v.log'), `socket,path=${socket}/guestfsd.sock,id=channel0`)
  const alive = identify(process.pid)!
  for (const [name, owner] of [
    ['vmspool-fix-dead00', dead],
    ['vmspool-fix-alive0', alive],
    ['vmspool-fix-away00', { ...dead, boot_id: 'another host' }],
    ['vmspool-fix-young0', undefined],
    ['somebody-elses', dead],
  ] as const) {
    mkdirSync(join(parent, name, 'cache'), { recursive: true })
    if (owner) writeFileSync(join(parent, name, 'owner.json'), JSON.stringify({ owner, logs }))
  }
  await sweep(parent)
  expect(readdirSync(parent).sort()).toEqual([
    'somebody-elses',
    'vmspool-fix-alive0',
    'vmspool-fix-away00',
    'vmspool-fix-young0',
  ])
  expect(existsSync(socket)).toBe(false)
})
