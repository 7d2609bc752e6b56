// Makes captured.json: what virsh and the real libvirtd say to each other, byte by byte, for every message that src/libvirt knows.
// Run by hand as root, where libvirtd, dnsmasq and QEMU are installed: `node test/libvirt/capture.ts`.
// A proxy between the two writes down the first successful exchange of each procedure, a few refusals, and the first of each event.
import { writeFileSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { createServer, connect as connectSocket } from 'node:net'
import { join } from 'node:path'
import { execa } from 'execa'
import { connect } from '../../src/libvirt/index.ts'
import { PROGRAM, readHeader, splitFrames, Status, Type } from '../../src/libvirt/frame.ts'
import { events } from '../../src/libvirt/procedures/events.ts'
import { until } from '../support/wait.ts'
import { privateLibvirtd } from '../support/libvirtd.ts'
import { type Captured, procedures } from './captured.ts'
import { names, xml } from './captured-scene.ts'

const byNumber = new Map(procedures.map((p) => [p.number, p]))
const result: Captured = { libvirt: '', dir: '', calls: {}, refusals: [], events: {}, keepalive: {}, streams: {} }

await using daemon = await privateLibvirtd({
  conf: 'unix_sock_rw_perms = "0700"\nauth_unix_rw = "none"\nkeepalive_interval = 1\n',
})
// the test driver's host is there for as long as somebody is connected to it
await using last = await connect(daemon.uri('test:///default'))
const dir = join(daemon.dir, 'capture')
await mkdir(dir)
const proxySocket = join(dir, 'proxy')
let step = ''

const KINDS = ['finish', 'abort', 'data']
/** the first of each kind; an end without a word is told apart from data */
const part = (who: string, f: Buffer): void => {
  const h = readHeader(f)
  const kind = h.status === Status.continue && f.length === 28 ? 'eof' : KINDS[h.status]
  result.streams[`${who} ${kind}`] ??= { step, frame: f.toString('hex') }
}

const server = createServer((client) => {
  const upstream = connectSocket(daemon.socket)
  const calls = new Map<number, Buffer>()
  const fromClient = splitFrames()
  const fromDaemon = splitFrames()
  client.on('data', (d: Buffer) => {
    for (const f of fromClient.push(Buffer.from(d))) {
      const h = readHeader(f)
      if (h.program !== PROGRAM) result.keepalive[`client ${h.procedure}`] ??= f.toString('hex')
      else if (h.type === Type.call) calls.set(h.serial, Buffer.from(f))
      else if (h.type === Type.stream) part('client', f)
    }
    upstream.write(d)
  })
  upstream.on('data', (d: Buffer) => {
    for (const f of fromDaemon.push(Buffer.from(d))) {
      const h = readHeader(f)
      const event = events.find((e) => e.number === h.procedure)
      if (h.program !== PROGRAM) result.keepalive[`daemon ${h.procedure}`] ??= f.toString('hex')
      else if (h.type === Type.message) {
        if (event) result.events[event.kind] ??= { step, frame: f.toString('hex') }
      } else if (h.type === Type.stream) {
        part('daemon', f)
      } else if (h.type === Type.reply) {
        const call = calls.get(h.serial)!
        const p = byNumber.get(h.procedure)
        const entry = { step, call: call.toString('hex'), reply: f.toString('hex') }
        // the first list of addresses is empty
        if (h.status === Status.ok && p?.name === 'DOMAIN_INTERFACE_ADDRESSES') result.calls[p.name] = entry
        else if (h.status === Status.ok && p) result.calls[p.name] ??= entry
        else if (h.status === Status.error)
          result.refusals.push({ procedure: p?.name ?? String(h.procedure), ...entry })
      }
    }
    client.write(d)
  })
  for (const [a, b] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    a.on('close', () => b.destroy())
    a.on('error', () => b.destroy())
  }
})
await new Promise<void>((resolve) => server.listen(proxySocket, resolve))

const at = (driver: string) => `${driver}+unix:///${driver === 'qemu' ? 'system' : 'default'}?socket=${proxySocket}`
const qemu = async (...args: string[]) => virsh('qemu', args)
const virsh = async (driver: string, args: string[], o: { fails?: boolean } = {}) => {
  step = `virsh -c ${driver} ${args.join(' ').replaceAll(daemon.dir, '…')}`
  const r = await execa('virsh', ['-q', '-c', at(driver), ...args], { env: { LC_ALL: 'C' }, reject: false })
  if ((r.exitCode !== 0) !== (o.fails ?? false)) throw new Error(`${step}: ${r.exitCode} ${r.stderr}`)
  return r.stdout
}
const file = async (name: string, text: string) => {
  const path = join(dir, name)
  await writeFile(path, text)
  return path
}
/** the proxy's client is this project's own, for what virsh never asks */
const own = async (driver: string, what: string, f: (c: Awaited<ReturnType<typeof connect>>) => Promise<unknown>) => {
  step = `vmspool ${driver} ${what}`
  await using c = await connect(at(driver))
  await f(c)
}

// the host
await qemu('version', '--daemon')
await qemu('hostname')
await qemu('freecell')
await virsh('test', ['nodeinfo'])
await virsh('test', ['capabilities'])
await own('test', 'uri', (c) => c.host.uri())
await own('test', 'refused domain', (c) => c.domains.byName('nobody'))
await own('qemu', 'refused domcapabilities', (c) =>
  c.host.domainCapabilities({ arch: 'aarch64', virt_type: 'nothing' }).catch(() => {}),
)
await qemu('domcapabilities', '--arch', 'x86_64', '--machine', 'isapc', '--virttype', 'qemu')

// networks
const net = await file('net.xml', xml.network)
await virsh('test', ['net-create', net])
await virsh('test', ['net-destroy', names.network])
await qemu('net-define', net, '--validate')
await qemu('net-undefine', names.network)
await qemu('net-define', net)
await qemu('net-autostart', names.network)
await qemu('net-autostart', names.network, '--disable')
await qemu('net-start', names.network)
await qemu('net-info', names.network)
await qemu('net-name', names.network_uuid)
await qemu('net-dumpxml', names.network)
await qemu('net-list', '--all')
await own('qemu', 'network', async (c) => {
  const n = (await c.networks.byName(names.network))!
  await c.networks.isActive(n)
  await c.networks.isPersistent(n)
  await c.networks.autostart(n)
})

// domains: one that asks the network for an address by its boot ROM
const dom = await file('dom.xml', xml.domain)
step = 'virsh event'
const listener = execa('virsh', ['-c', at('qemu'), '-k', '1', 'event', '--all', '--loop'], {
  reject: false,
  env: { LC_ALL: 'C' },
})
const testListener = execa('virsh', ['-c', at('test'), 'event', '--all', '--loop'], {
  reject: false,
  env: { LC_ALL: 'C' },
})
await until('virsh listens', () => (result.calls.CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY ? true : undefined))
await qemu('define', dom, '--validate')
await qemu('start', names.domain, '--paused')
await qemu('domstate', names.domain)
await qemu('resume', names.domain)
await qemu('suspend', names.domain)
await qemu('resume', names.domain)
await qemu('domuuid', '1')
await qemu('domname', names.domain_uuid)
await qemu('dominfo', names.domain)
await qemu('list', '--all')
await qemu('autostart', names.domain)
await qemu('autostart', names.domain, '--disable')
await until('the guest has its address', async () => (await qemu('domifaddr', names.domain)).includes('192.0.2.'))
await qemu('net-dhcp-leases', names.network)
// consoles need a terminal: script(1) has one
const typed = ['-qefc', `virsh -q -c '${at('qemu')}' console ${names.domain}`, '/dev/null']
step = 'virsh console'
const console1 = execa('script', typed, { env: { LC_ALL: 'C', TERM: 'dumb' }, stdin: 'pipe', reject: false })
// its firmware speaks at each start
await until('virsh has the console', () => (result.calls.DOMAIN_OPEN_CONSOLE ? true : undefined))
await qemu('reset', names.domain)
step = 'virsh console'
await until('the guest speaks on its console', () => (result.streams['daemon data'] ? true : undefined))
console1.stdin.write('x')
await until('it was typed to', () => (result.streams['client data'] ? true : undefined))
await own('qemu', 'second console', (c) =>
  c.domains.byName(names.domain).then((d) => c.domains.console(d!, { flags: ['safe'] }).catch(() => {})),
)
step = 'virsh console'
console1.stdin.write('\x1d')
await console1
await own('qemu', 'console', async (c) => {
  const d = (await c.domains.byName(names.domain))!
  await (await c.domains.console(d)).abort()
})
await qemu('domstats', names.domain, '--cpu-total', '--balloon', '--state')
await qemu('metadata', names.domain, names.namespace, '--config', '--key', 'v', '--set', '<job id="1"/>')
await qemu('metadata', names.domain, names.namespace, '--config')
await own('qemu', 'metadata', (c) => c.domains.list().then(([d]) => c.domains.title(d!)))
await qemu('attach-device', names.domain, await file('usb.xml', xml.usb))
await qemu('detach-device', names.domain, await file('usb.xml', xml.usb))
await until('the device is gone', () => (result.events.device_removed ? true : undefined))
await qemu('reset', names.domain)
await until('the domain was reset', () => (result.events.reboot ? true : undefined))
await own('qemu', 'is active', (c) => c.domains.byName(names.domain).then((d) => c.domains.isActive(d!)))
await qemu('shutdown', names.domain, '--mode', 'acpi')
await virsh('qemu', ['reboot', names.domain, '--mode', 'agent'], { fails: true })
await qemu('reboot', names.domain, '--mode', 'acpi')
await own('qemu', 'same name', (c) =>
  c.domains.define(xml.domain.replace(names.domain_uuid, names.pool_uuid)).catch(() => {}),
)
await qemu('managedsave', names.domain)
await qemu('managedsave-remove', names.domain)
await qemu('start', names.domain)
step = 'vmspool qemu console to its end'
const watching = await connect(at('qemu'))
const watched = await watching.domains.console((await watching.domains.byName(names.domain))!)
const toItsEnd = (async () => {
  for await (const _ of watched) void _
  await watched.finish().catch(() => {})
  await watching.close()
})()
await qemu('destroy', names.domain, '--graceful')
await toItsEnd.catch(() => {})
await own('qemu', 'not running', (c) =>
  c.domains.byName(names.domain).then((d) => c.domains.destroy(d!).catch(() => {})),
)
await own('qemu', 'dumpxml', (c) => c.domains.byName(names.domain).then((d) => c.domains.xml(d!, ['inactive'])))
await qemu('undefine', names.domain, '--managed-save', '--nvram')
await virsh('test', ['create', await file('test.xml', xml.test)])
await virsh('test', ['destroy', names.domain])
await virsh(
  'qemu',
  ['define', '--validate', await file('bad.xml', xml.domain.replace('<on_poweroff>', '<nonsense/><on_poweroff>'))],
  {
    fails: true,
  },
)

// storage
const pool = await file('pool.xml', xml.pool(join(dir, 'pool')))
await virsh('test', ['pool-create', await file('pool-test.xml', xml.pool('/nowhere'))])
await virsh('test', ['pool-destroy', names.pool])
await qemu('pool-define', pool)
await qemu('pool-build', names.pool)
await qemu('pool-start', names.pool)
await qemu('pool-autostart', names.pool)
await qemu('pool-autostart', names.pool, '--disable')
await qemu('pool-refresh', names.pool)
await qemu('pool-name', names.pool_uuid)
await qemu('pool-info', names.pool)
await qemu('pool-dumpxml', names.pool)
await qemu('pool-list', '--all')
await own('qemu', 'pool', async (c) => {
  const p = (await c.pools.byName(names.pool))!
  await c.pools.isActive(p)
  await c.pools.isPersistent(p)
  await c.pools.autostart(p)
})
await qemu('vol-create', names.pool, await file('vol.xml', xml.volume(names.volume)))
await qemu(
  'vol-create-from',
  names.pool,
  await file('copy.xml', xml.volume('copy')),
  names.volume,
  '--inputpool',
  names.pool,
)
await qemu('vol-list', names.pool)
await qemu('vol-info', names.volume, names.pool)
await qemu('vol-dumpxml', names.volume, names.pool)
await qemu('vol-path', names.volume, names.pool)
await qemu('vol-pool', join(dir, 'pool', names.volume))
await own('qemu', 'volume', (c) => c.volumes.byKey(join(dir, 'pool', names.volume)))
await own('qemu', 'volume', (c) => c.volumes.byPath(join(dir, 'pool', names.volume)))
await qemu('vol-resize', names.volume, '2097152', names.pool)
await qemu('vol-delete', names.volume, names.pool)
await qemu('vol-delete', 'copy', names.pool)
await qemu('pool-destroy', names.pool)
await qemu('pool-delete', names.pool)
await qemu('pool-undefine', names.pool)
await qemu('net-destroy', names.network)

listener.kill('SIGINT')
testListener.kill('SIGINT')
await Promise.all([listener, testListener])
await own('test', 'events', async (c) => {
  await using e = await c.events()
  void e
})
await own('test', 'deregister', async (c) => {
  const e = await c.events({ kinds: ['metadata'] })
  await e.close()
})
await polkit()
result.libvirt = await last.host.version()
server.close()

const lacking = [
  ...procedures.map((p) => p.name).filter((n) => !(n in result.calls)),
  ...events.map((e) => e.kind).filter((k) => !(k in result.events)),
]
if (lacking.length > 0) console.error(`Not captured: ${lacking.join(', ')}`)
result.dir = daemon.dir
const out = join(import.meta.dirname, 'captured.json')
writeFileSync(out, `${JSON.stringify(result, null, 1)}\n`)

async function framesOf(path: string): Promise<Buffer[]> {
  return [...splitFrames().push(await readFile(path))]
}

/** Two copies of what virt-ssh-helper carries, from a user whom polkitd lets in. */
async function polkit(): Promise<void> {
  await using asking = await privateLibvirtd({
    conf: 'unix_sock_rw_perms = "0777"\nauth_unix_rw = "polkit"\n',
    polkit: 'yes',
  })
  const command = join(asking.dir, 'as-nobody')
  const tee = join(asking.dir, 'tee')
  const [up, down] = [join(asking.dir, 'up'), join(asking.dir, 'down')]
  await writeFile(tee, `#!/bin/sh\ntee ${up} | ${command} "$@" | tee ${down}\n`, { mode: 0o755 })
  await using c = await connect(`qemu+ssh://here/system?command=${tee}`)
  await c.host.version()
  const [asked, answered] = [await framesOf(up), await framesOf(down)]
  const call = asked.find((f) => readHeader(f).procedure === 70)!
  const reply = answered.find((f) => readHeader(f).procedure === 70)!
  result.calls.AUTH_POLKIT = { step: 'vmspool as nobody', call: call.toString('hex'), reply: reply.toString('hex') }
}
