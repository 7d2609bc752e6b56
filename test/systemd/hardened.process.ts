// virt-v2v and libvirt under the hardening of the units as they are: a container with a real systemd, our .deb, Debian's libvirt as its packages
// set it up, and jobs that an unprivileged member of vmspool-submit drops. Nothing is opened but what docs/systemd.md says: the group libvirt.
import { execFile } from 'node:child_process'
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { execa } from 'execa'
import { home } from '../support/agent.ts'
import { applianceKernel } from '../support/appliance-kernel.ts'
import { builtCheckout } from '../support/checkout.ts'
import { debianGuest } from '../support/debian-guest.ts'
import { exportOva } from '../support/export-ova.ts'
import { type SystemdBox, systemdBox } from '../support/systemd-box.ts'
import { tempDir } from '../support/temp.ts'
import { guestAnswered, makeTinyGuest } from '../support/tiny-guest.ts'
import { until } from '../support/wait.ts'

const exec = promisify(execFile)
const HOUR = 3_600_000
const MIB = 2 ** 20
const UNIT = 'agent@vsphere.service'
const PROOF = 'proof of the hardened unit'
/** Debian's way to set libvirt up: users, groups, units, polkit's rule, the network "default". */
const LIBVIRT = ['config-network', 'config-nwfilter', 'system-systemd', 'system'].map(
  (part) => `libvirt-daemon-${part}`,
)
const started = performance.now()
const say = (line: string) =>
  process.stdout.write(`${String(Math.round((performance.now() - started) / 1000)).padStart(5)} s  ${line}\n`)

function must(fact: boolean, what: string): asserts fact {
  if (!fact) throw new Error(`Not so: ${what}`)
}

type Json = Record<string, unknown>
// biome-ignore lint/suspicious/noExplicitAny: results are looked at as a client would
type Result = any

/** Packages and guests, below folders that everybody may pass, as exports are. */
async function prepare(dir: string) {
  const packages = join(dir, 'packages')
  const guests = join(dir, 'guests')
  for (const d of [packages, guests]) await mkdir(d, { mode: 0o755 })
  const copy = await builtCheckout(dir)
  const argv = [join(copy, 'scripts/package.ts'), '--no-build', '--out', packages]
  await exec(join(home, 'node_modules/.bin/node'), [...argv, '--only', 'deb', '--compress', 'none'])
  await execa('apt-get', ['-q', '-o', 'APT::Sandbox::User=root', 'download', ...LIBVIRT, 'logrotate'], {
    cwd: packages,
  })
  const raw = join(guests, 'tiny.raw')
  await makeTinyGuest(raw, PROOF, { serve: true })
  const vmdk = join(guests, 'tiny.vmdk')
  await execa('qemu-img', ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, vmdk])
  await exportOva('tiny', [{ path: vmdk, capacity_bytes: (await stat(raw)).size }])
  const kernel = await applianceKernel(say)
  return { packages, guests, kernel, debs: await readdir(packages) }
}

await using temp = await tempDir()
const ready = await prepare(temp.path)
const boot = join(ready.kernel, '../..')
await using box: SystemdBox = await systemdBox({
  bare: true,
  bind: { '/opt/packages': ready.packages, '/opt/guests': ready.guests, '/opt/appliance': boot },
  devices: ['/dev/net/tun'],
})
const output = (path: string, instance = 'vsphere') => `/var/lib/vmspool/${instance}/output/${path}`
const asAlice = (script: string) =>
  box.run('setpriv', '--reuid=alice', '--regid=alice', '--init-groups', 'sh', '-c', script)
const read = async (path: string): Promise<Result> => {
  const r = await asAlice(`cat ${path}`)
  must(!r.stderr.startsWith('nsenter'), `the container lives: ${r.stderr}`)
  return r.code === 0 ? JSON.parse(r.stdout) : undefined
}

/** Alice drops a manifest; what its status says at its end. */
async function run(instance: string, answer: string, manifest: Json, o: { end?: string } = {}): Promise<Result> {
  await drop(instance, manifest)
  return ended(instance, answer, o.end)
}
let dropped = 0
const last = new Map<string, string>()
async function drop(instance: string, manifest: Json): Promise<void> {
  const n = ++dropped
  await writeFile(join(box.root, `opt/alice-${n}.json`), JSON.stringify(manifest), { mode: 0o644 })
  const queue = `/var/lib/vmspool/${instance}/queue`
  const r = await asAlice(`cp /opt/alice-${n}.json ${queue}/.${n} && mv ${queue}/.${n} ${queue}/${n}.json`)
  must(r.code === 0, `alice may drop: ${r.stderr}`)
}
async function ended(instance: string, answer: string, wanted = 'succeeded'): Promise<Result> {
  let s: Result
  const end = await until(
    `${answer} ends`,
    async () => {
      s = await read(output(`${answer}.status.json`, instance))
      const over = ['succeeded', 'failed', 'rejected', 'cancelled'].includes(s?.state)
      return over && s.id !== last.get(`${instance}/${answer}`) ? s : undefined
    },
    { deadline_ms: HOUR, every_ms: 500, also: () => JSON.stringify(s) },
  )
  last.set(`${instance}/${answer}`, end.id)
  if (end.state === wanted) return read(output(`${answer}.result.json`, instance))
  const r = await box.run(
    'sh',
    '-c',
    `cat ${output(`jobs/${end.id}/log`, instance)}; journalctl -n 60 --no-pager -o cat`,
  )
  throw new Error(`${answer} is ${end.state}, not ${wanted}: ${end.reason}\n${r.stdout}`)
}
async function answers(address: string) {
  const script = 'fetch(process.argv[1]).then((r) => r.text()).then((t) => process.stdout.write(t))'
  const node = '/opt/checkout/node_modules/.bin/node'
  const page = await until(
    'the guest answers',
    async () => (await box.run(node, '-e', script, `http://${address}/`)).stdout,
    { deadline_ms: 600_000, every_ms: 500 },
  )
  return guestAnswered(page)
}

// --- as an administrator does it ---------------------------------------------------------------------------------------
const deb = (name: string) => ready.debs.filter((f) => f.startsWith(`${name}_`)).map((f) => `/opt/packages/${f}`)
await box.ok('rm', '-f', '/usr/sbin/policy-rc.d')
const noninteractive = ['env', 'DEBIAN_FRONTEND=noninteractive', 'dpkg', '--force-unsafe-io', '-i']
await box.ok(...noninteractive, ...[...LIBVIRT, 'logrotate'].flatMap(deb))
// nspawn mounts most controllers of version 1 read-only; QEMU's limits are libvirt's business.
await box.ok('sh', '-c', "echo 'cgroup_controllers = []' >>/etc/libvirt/qemu.conf")
await box.ok('systemctl', 'restart', 'libvirtd')
await until('libvirt answers', async () => (await box.run('virsh', '-c', 'qemu:///system', 'list')).code === 0)
if (!(await box.ok('virsh', 'net-list', '--name')).includes('default')) await box.ok('virsh', 'net-start', 'default')
await box.ok(...noninteractive, ...deb('vmspool'))
// As docs/fixing.md says, where the host has no kernel of its own.
await box.ok('mkdir', '-p', '/lib/modules')
await box.ok('useradd', '--create-home', '--groups', 'vmspool-submit', 'alice')
await box.ok('usermod', '-aG', 'libvirt', 'vmspool')
const config = {
  vm: {
    accelerator: 'qemu',
    limits: { min_memory: '64M', min_disk: '1M' },
    reserved: { memory: 0, disk: 0 },
    cpu_overcommit: 100,
  },
  libvirt: { networks: { 'VM Network': 'default' } },
  fix: { kernel: `/opt/appliance/boot/${ready.kernel.split('/').at(-1)}`, unavailable: 'fail' },
  retry: { max_attempts: 0 },
}
await mkdir(join(box.root, 'etc/vmspool'), { recursive: true })
const INSTANCES = ['vsphere', 'aws', 'fix']
for (const i of INSTANCES) {
  const drain = i === 'fix' ? { drain: { timeout: 0 } } : {}
  const text = JSON.stringify({ ...config, ...drain })
  await writeFile(join(box.root, `etc/vmspool/agent@${i}.yaml`), text, { mode: 0o644 })
}
const installed = await box.run('vmspool-install', ...INSTANCES.flatMap((i) => ['--instance', i]))
const findings = installed.stdout.split('\n').flatMap((l) => /^(?:warn|fail|error) +(\S+)/i.exec(l)?.[1] ?? [])
say(`installed; what doctor has to say about: ${[...new Set(findings)].join(', ')}`)
const security = await box.run('systemd-analyze', 'security', '--no-pager', UNIT)
const exposure = /Overall exposure level for .*: ([\d.]+)/.exec(security.stdout)?.[1]
must(Number(exposure) <= 1.5, `the exposure of ${UNIT} is at most 1.5, as systemd sees it: ${exposure}`)
const dropIns = await box.show(UNIT, 'DropInPaths')
must(dropIns === '', `no drop-in opens anything: ${dropIns}`)
say(`the exposure of ${UNIT}, as it runs, is ${exposure}`)

// --- virt-v2v and virt-customize, which take minutes: beside the rest ---------------------------------------------------
await sourceDisk()
const toFix = {
  manifest_version: '1.0',
  name: 'web',
  disks: [{ id: 'system', source_format: 'vmdk', local_path: '/opt/guests/web.vmdk' }],
  vm: { cpu: 1, mem_gb: 1, firmware: 'bios' },
  pipeline: { inspect: { collect_guest_info: true }, fix: { enabled: true, required: true } },
  configuration: { hostname: 'hardened' },
}
// The units hide the modules of kernels; the error says what opens them.
await drop('fix', toFix)
await ended('fix', 'web', 'failed')
const said = (await asAlice(`cat ${output('web.error', 'fix')}`)).stdout
must(said.includes('agent@fix.service hides') && said.includes('vmspool-install --fix'), `the error names it: ${said}`)
say(
  (await box.ok('vmspool-install', '--instance', 'fix', '--fix')).split('\n').find((l) => l.startsWith('Drop-in')) ??
    '',
)
await box.ok('systemctl', 'restart', 'agent@fix')
await drop('fix', toFix)
const fixed = fixIt()
// It is looked at in the end; a rejection before that is no accident of the process.
fixed.catch(() => {})

/** The guest as it was exported; its initramfs is built in minutes, and not in a quarter of an hour. */
async function sourceDisk(): Promise<void> {
  const raw = join(temp.path, 'web.raw')
  await execa('cp', ['--sparse=always', (await debianGuest(say)).raw, raw])
  const tools = join(temp.path, 'initramfs-tools')
  await mkdir(tools)
  await writeFile(join(tools, 'few'), 'MODULES=list\n')
  await writeFile(join(tools, 'modules'), 'virtio_pci\nvirtio_blk\nvirtio_scsi\nata_piix\nsd_mod\next4\n')
  const into = '/etc/initramfs-tools'
  const commands = `rm ${into}/modules\nwrite ${tools}/modules ${into}/modules\nwrite ${tools}/few ${into}/conf.d/few\n`
  await execa('/usr/sbin/debugfs', ['-w', '-f', '-', `${raw}?offset=${MIB}`], { input: commands })
  const vmdk = join(ready.guests, 'web.vmdk')
  await execa('qemu-img', ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, vmdk])
}

/** A restart in the middle of virt-v2v, without any time to drain: what that costs. */
async function fixIt(): Promise<void> {
  const inFix = async () => {
    const s = await read(output('web.status.json', 'fix'))
    if (s?.id === last.get('fix/web')) return false
    if (s?.state === 'failed') throw new Error(`The fix failed: ${s.reason}`)
    return s?.phase === 'fix' && box.processes('agent@fix.service').some((p) => /qemu-system/.test(p.argv[0] ?? ''))
  }
  await until('virt-v2v runs its appliance', inFix, { deadline_ms: HOUR, every_ms: 500 })
  const log = async (id: string) => (await box.run('cat', output(`jobs/${id}/log`, 'fix'))).stdout
  const { id } = await read(output('web.status.json', 'fix'))
  const lines = (await log(id)).split('\n')
  const before = Date.parse(lines.findLast((l) => /: done in /.test(l))?.slice(0, 24) ?? '')
  await box.ok('systemctl', 'restart', 'agent@fix')
  say(
    `restarted in the middle of the fix: lost ${((Date.now() - before) / 1000).toFixed(1)} s since the last step was done`,
  )
  await ended('fix', 'web')
  const text = await log(id)
  must(/copy .*took over the finished copy/.test(text), `the copy was taken over:\n${text}`)
  for (const line of text.split('\n').filter((l) => /: done in |took over/.test(l))) say(`  ${line}`)
  const { stages } = (await read(output('web.report.json', 'fix'))).pipeline
  say(`fixed: ${JSON.stringify(stages.fix.result)}`)
  must(stages.fix.result.initramfs_regenerated === true, 'virt-v2v rebuilt the initramfs')
  say(`inspected: ${JSON.stringify(stages.inspect.result)}`)
}

// --- a VM --------------------------------------------------------------------------------------------------------------
const vm = { image: '/opt/guests/tiny.raw', vcpus: 1, memory: '256M', networks: ['default'] }
const job = (action: string, more: Json = {}) => ({ kind: 'vm', name: 'web', action, ...more })
await drop('vsphere', job('create', { vm, wait_for_address: '10m' }))
await until(
  'the guest boots',
  async () => {
    const s = await read(output('web.vm.status.json'))
    if (s?.state === 'failed') throw new Error(`The VM was not made: ${s.reason}`)
    return s?.phase === 'address'
  },
  { deadline_ms: 600_000, every_ms: 50 },
)
await box.ok('systemctl', 'restart', UNIT)
let r = await ended('vsphere', 'web.vm')
say(`restarted while the guest booted: ${r.summary}`)
const first = await answers(r.vm.addresses[0])
must(first.proof === PROOF && first.boots === 1, `the guest is the one that was made: ${JSON.stringify(first)}`)
say((await run('vsphere', 'web.vm', job('stop', { grace: '10m' }))).summary)
r = await run('vsphere', 'web.vm', job('start', { wait_for_address: '10m' }))
say(r.summary)
const second = await answers(r.vm.addresses[0])
must(second.boots === 2 && second.boot !== first.boot, `it booted once more: ${JSON.stringify(second)}`)
say((await run('vsphere', 'web.vm', job('restart', { force: true, wait_for_address: '10m' }))).summary)
say((await run('vsphere', 'web.vm', job('delete', { force: true }))).summary)
must((await box.ok('virsh', 'list', '--all', '--name')).trim() === '', 'no domain is left')

// --- a conversion that defines and starts its VM -----------------------------------------------------------------------
const mac = '52:54:00:12:34:56'
const site = {
  manifest_version: '1.0',
  name: 'site',
  disks: [{ id: 'disk', source_format: 'ova', bytes: 0, local_path: '/opt/guests/tiny.ova' }],
  vm: { cpu: 1, mem_gb: 1 },
  nics: [{ id: 'nic-0', mac, network: 'VM Network' }],
  libvirt_integration: { enabled: true, auto_start: true },
}
const siteAnswers = async (): Promise<void> => {
  const lease = await until(
    'the guest has an address',
    async () =>
      new RegExp(`${mac}\\s+ipv4\\s+([\\d.]+)`).exec(await box.ok('virsh', 'net-dhcp-leases', 'default'))?.[1],
    { deadline_ms: 600_000, every_ms: 500 },
  )
  must((await answers(lease)).proof === PROOF, 'the converted guest is the one that was exported')
  say(`site: converted, defined, started, answers at ${lease}`)
}
r = await run('vsphere', 'site', site)
must(r.define.running === true, `the converted VM runs: ${JSON.stringify(r.define)}`)
await siteAnswers()
// Its disk is QEMU's while it runs, and is given back.
const readable = async () => (await asAlice(`cat ${output('site.qcow2')} >/dev/null`)).code === 0
must(!(await readable()), 'nobody else reads a disk that a guest writes')
say((await run('vsphere', 'site.vm', { kind: 'vm', name: 'site', action: 'delete', force: true })).summary)
must(await readable(), `alice reads the answer: ${await box.ok('ls', '-ln', output('site.qcow2'))}`)

// The agent is killed when libvirt has the disk and the job is not done: the next one may not read it.
await drop('vsphere', site)
await until(
  'the disk is QEMU’s',
  async () => (await box.run('sh', '-c', `stat -c %U ${output('vms/site/*/disk.qcow2')}`)).stdout === 'libvirt-qemu',
  { deadline_ms: 300_000, every_ms: 1 },
)
await box.ok('systemctl', 'kill', '--signal=KILL', '--kill-whom=main', UNIT)
r = await ended('vsphere', 'site')
must(r.define.running === true, `the VM runs all the same: ${JSON.stringify(r.define)}`)
say(`site, whose agent was killed while it started the guest: ${r.summary ?? JSON.stringify(r.define)}`)
say((await run('vsphere', 'site.vm', { kind: 'vm', name: 'site', action: 'delete', force: true })).summary)

// --- two instances do not promise the same room ------------------------------------------------------------------------
const total = Number(/^MemTotal: +(\d+)/m.exec(await box.ok('cat', '/proc/meminfo'))?.[1]) * 1024
const large = { ...vm, networks: [], memory: `${Math.floor((total * 0.6) / MIB)}M`, image: '/opt/guests/large.raw' }
await execa('cp', ['--sparse=never', join(ready.guests, 'tiny.raw'), join(ready.guests, 'large.raw')])
await drop('aws', { kind: 'vm', name: 'large', action: 'create', vm: { ...large, start: false } })
const pid = await until(
  'the disk of the first is being made',
  () => {
    const found = box
      .processes('agent@aws.service')
      .find((p) => p.argv[0]?.endsWith('qemu-img') && p.argv[1] === 'convert')
    if (found) process.kill(found.pid, 'SIGSTOP')
    return found?.pid
  },
  { every_ms: 1 },
)
await drop('vsphere', { kind: 'vm', name: 'second', action: 'create', vm: { ...large, image: vm.image } })
await ended('vsphere', 'second.vm', 'failed').catch((e) => {
  process.kill(pid, 'SIGCONT')
  throw e
})
const why = (await read(output('second.vm.status.json'))).reason
must(/no room for the VM "second"/.test(why) && /"large"/.test(why), `the other instance's promise is counted: ${why}`)
process.kill(pid, 'SIGCONT')
await ended('aws', 'large.vm')
say(`two instances: ${why}`)
say((await run('aws', 'large.vm', { kind: 'vm', name: 'large', action: 'delete' })).summary)

await fixed
const units = INSTANCES.map((i) => `--unit=agent@${i}`)
const { stdout } = await box.run('journalctl', '--no-pager', '-o', 'cat', '-p', 'warning', ...units)
say(`warnings of the agents: ${stdout.replaceAll('\n', ' | ')}`)
must((await box.show(UNIT, 'NRestarts')) === '1', 'systemd started the agent again once, when it was killed')
for (const p of INSTANCES.flatMap((i) => box.processes(`agent@${i}.service`)))
  must(!/qemu|virt-|guestfs|nbdkit/.test(p.argv[0] ?? ''), `nothing is left running: ${p.argv.join(' ')}`)
