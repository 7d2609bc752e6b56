// The long proof of guest fixing: a real Debian 12 is fixed by virt-v2v and configured by virt-customize while its agent is killed in every
// step; no finished step runs twice, the result is what the copy and the overlay say, and it boots. Then a failed fix is retried.
import { existsSync, statSync } from 'node:fs'
import { cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { endGroup, type ProcessIdentity } from '../../src/process/index.ts'
import { type Bed, bed, type RunningAgent, vmspool } from '../support/agent.ts'
import { applianceKernel } from '../support/appliance-kernel.ts'
import { bootUntil } from '../support/boot-guest.ts'
import { debianGuest } from '../support/debian-guest.ts'
import { drop, endOf, readJson, type Status, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const HOUR = 3_600_000
const ORDER = ['inspect', 'copy', 'guest-info', 'fix', 'merge', 'validate', 'describe', 'collect']
const KEY = `ssh-ed25519 ${'A'.repeat(68)} ops@example.org`
const started = performance.now()
const say = (line: string) =>
  process.stdout.write(`${String(Math.round((performance.now() - started) / 1000)).padStart(5)} s  ${line}\n`)

function must(fact: boolean, what: string): asserts fact {
  if (!fact) throw new Error(`Not so: ${what}`)
}

/** The guest as its former hypervisor left it: a device name in fstab that will change; and an initramfs that is built in minutes, not in a quarter of an hour. */
async function sourceDisk(dir: string): Promise<{ vmdk: string; raw: string }> {
  const guest = await debianGuest(say)
  const raw = join(dir, 'source.raw')
  await execa('cp', ['--sparse=always', guest.raw, raw])
  const mnt = join(dir, 'mnt')
  await execa('mkdir', [mnt])
  await execa('mount', ['-o', `loop,offset=${1024 * 1024}`, raw, mnt])
  try {
    await writeFile(join(mnt, 'etc/fstab'), '/dev/sda1 / ext4 errors=remount-ro 0 1\n')
    await writeFile(join(mnt, 'etc/initramfs-tools/conf.d/few'), 'MODULES=list\n')
    await writeFile(
      join(mnt, 'etc/initramfs-tools/modules'),
      'virtio_pci\nvirtio_blk\nvirtio_scsi\nata_piix\nsd_mod\next4\n',
    )
  } finally {
    await execa('umount', [mnt])
    await rm(mnt, { recursive: true })
  }
  const vmdk = join(dir, 'web.vmdk')
  await execa('qemu-img', ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, vmdk])
  return { vmdk, raw }
}

const manifest = (name: string, vmdk: string, more: object) => ({
  manifest_version: '1.0',
  name,
  disks: [{ id: 'system', source_format: 'vmdk', local_path: vmdk }],
  vm: { cpu: 1, mem_gb: 1, firmware: 'bios' },
  compress: true,
  ...more,
})

const hostname = { name: 'fixed-guest', domain: 'example.org', hosts: { '192.0.2.7': ['db.example.org', 'db'] } }
const configuration = {
  users: { create: [{ name: 'ops', uid: 1500, groups: ['sudo', 'web-team'], ssh_keys: [KEY], sudo: true }] },
  services: { mask: ['apt-daily.timer'] },
  hostname,
  network: {
    files: [{ type: 'network', name: 'lan', priority: 20, content: '[Match]\nName=en*\n\n[Network]\nDHCP=yes\n' }],
  },
}

/** Kills the agent as soon as the job is where `now` wants it; says which attempt that was. */
async function killWhen(
  b: Bed,
  agent: RunningAgent,
  name: string,
  what: string,
  now: (s: Status) => boolean | Promise<boolean>,
): Promise<{ id: string; epoch: number }> {
  let last: Status | undefined
  await until(
    `${name} is in ${what}`,
    async () => {
      last = (await statusOf(b, name).catch(() => undefined)) ?? last
      if (last && ['succeeded', 'failed'].includes(last.state))
        throw new Error(`It ended before ${what}: ${JSON.stringify(last)}`)
      return last !== undefined && (await now(last))
    },
    { deadline_ms: HOUR, every_ms: 2, also: agent.output },
  )
  await agent.kill()
  return { id: last!.id, epoch: last!.epoch! }
}

interface Gate {
  path: string
  close(words: string): Promise<void>
  open(): Promise<void>
}

/**
 * A qemu-img in front of the real one that waits, before a call that begins with these words, for as long as the gate is closed: inspect and
 * validate take a tenth of a second otherwise, and could not be met.
 */

async function gated(dir: string): Promise<Gate> {
  const bin = join(dir, 'bin')
  const gate = join(dir, 'gate')
  await mkdir(bin)
  const real = (await execa('which', ['qemu-img'])).stdout
  const script = `#!/bin/sh
while [ -e ${gate} ]; do
  words=$(cat ${gate} 2>/dev/null) || break
  case "$*" in "$words"*) sleep 0.05 ;; *) break ;; esac
done
exec ${real} "$@"
`
  await writeFile(join(bin, 'qemu-img'), script, { mode: 0o755 })
  return {
    path: `${bin}:${process.env.PATH}`,
    close: (words) => writeFile(gate, words),
    open: () => rm(gate, { force: true }),
  }
}

/** The folder of the latest attempt. */
async function attemptOf(b: Bed, id: string): Promise<string> {
  const dirs = await readdir(join(b.layout.work, id))
  const latest = dirs.sort((x, y) => Number.parseInt(x, 10) - Number.parseInt(y, 10)).at(-1)!
  return join(b.layout.work, id, latest)
}

/** What each attempt's part of the job's log says about a step: finished by itself, taken over, begun and not finished. */
function stepsIn(log: string): Record<string, { ran: number; taken: number }> {
  const names = ['copy', 'guest-info', 'fix', 'merge']
  const out = Object.fromEntries(names.map((n) => [n, { ran: 0, taken: 0 }]))
  for (const part of log.split(/^.*agent F attempt \d+ \(epoch \d+\).*$/m).slice(1)) {
    for (const [step, s] of Object.entries(out)) {
      const taken = new RegExp(`agent F ${step}[^\\n]*: took over`).test(part)
      if (taken) s.taken += 1
      else if (new RegExp(`agent F ${step}: done in`).test(part)) s.ran += 1
    }
  }
  return out
}

async function killedInEveryStep(b: Bed, gate: Gate, src: { vmdk: string; raw: string }, dir: string): Promise<string> {
  const job = manifest('web', src.vmdk, {
    pipeline: {
      inspect: { collect_guest_info: true },
      fix: { enabled: true, fstab_mode: 'stabilize-all', required: true },
    },
    configuration,
    output: { checksum: true },
  })
  await gate.close('info')
  let agent = await b.start()
  await drop(b, job)
  let expected: string | undefined
  let id = ''
  let epoch = -1
  /** Kills in a step and starts the next agent; between the two `look` sees what was left. */
  const killIn = async (
    what: string,
    now: (s: Status) => boolean | Promise<boolean>,
    look?: (attempt: string) => Promise<void>,
  ): Promise<void> => {
    const at = performance.now()
    const killed = await killWhen(b, agent, 'web', what, async (s) => {
      if (s.epoch! <= epoch) return false // what the attempt before has left
      if (ORDER.indexOf(String(s.phase)) > ORDER.indexOf(what)) throw new Error(`${what} went by: it is in ${s.phase}.`)
      return s.phase === what && (await now(s))
    })
    id = killed.id
    epoch = killed.epoch
    say(`killed in ${what} after ${Math.round((performance.now() - at) / 1000)} s`)
    const attempt = await attemptOf(b, id)
    // what it had started lives on until the next agent comes; here nothing may change any more
    const children = await readJson<{ groups: ProcessIdentity[] }>(join(attempt, 'children.json'))
    for (const g of children?.groups ?? []) await endGroup(g, 0)
    await look?.(attempt)
  }
  await killIn('inspect', () => true)
  await gate.open()
  agent = await b.start()
  await killIn('copy', () => true)
  agent = await b.start()
  await killIn('guest-info', () => true)
  agent = await b.start()
  await killIn(
    'fix',
    (s) => JSON.stringify(s.progress ?? '').includes('to run on KVM'),
    async (attempt) => {
      await execa('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', join(attempt, 'copy/system.qcow2'), src.raw])
      say('the copy under the fix that was broken off is the source, byte for byte')
    },
  )
  await gate.close('commit')
  agent = await b.start()
  await killIn(
    'merge',
    async (s) => {
      const copy = join(await attemptOf(b, s.id), 'copy/system.qcow2')
      const before = statSync(copy).mtimeMs
      await gate.open()
      await until('qemu-img writes into the copy', () => statSync(copy).mtimeMs !== before, { every_ms: 1 })
      return true
    },
    async (attempt) => {
      // The copy is the source, so this is what must come out.
      const overlay = join(dir, 'overlay.qcow2')
      await cp(join(attempt, 'fix/system.qcow2'), overlay)
      const backing = { driver: 'raw', file: { driver: 'file', filename: src.raw } }
      const node = { driver: 'qcow2', file: { driver: 'file', filename: overlay }, backing }
      expected = join(dir, 'expected.raw')
      await execa('qemu-img', ['convert', '-O', 'raw', `json:${JSON.stringify(node)}`, expected])
      say(`the overlay has ${((await stat(overlay)).size / 2 ** 20).toFixed(0)} MiB`)
    },
  )
  await gate.close('check --output')
  agent = await b.start()
  await killIn('validate', () => true)
  agent = await b.start()
  await until(
    'it is validated again',
    async () => {
      const s = await statusOf(b, 'web')
      return s && s.epoch! > epoch && s.phase === 'validate'
    },
    { deadline_ms: HOUR },
  )
  const answer = join(await attemptOf(b, id), 'answer')
  await gate.open()
  const sought = performance.now()
  // without a turn of the event loop: between the last rename and the commit lie milliseconds
  while (!existsSync(join(answer, 'web.qcow2')) && existsSync(answer) && performance.now() - sought < 600_000);
  if (existsSync(join(answer, 'web.qcow2'))) {
    await agent.kill()
    say('killed when everything was collected, before the commit')
    agent = await b.start()
  } else say('it had committed before it could be killed after collect')
  const end = await endOf(b, 'web', HOUR)
  must(end.state === 'succeeded', `the job succeeds, but ${JSON.stringify(end)}`)
  const log = await readFile(join(b.layout.outputJobs, id, 'log'), 'utf8')
  const steps = stepsIn(log)
  say(`its log: ${JSON.stringify(steps)}`)
  for (const [step, n] of Object.entries(steps)) must(n.ran === 1, `${step} was finished exactly once:\n${log}`)
  const image = join(b.layout.output, 'web.qcow2')
  await execa('qemu-img', ['check', '-f', 'qcow2', image])
  await execa('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', image, expected!])
  say('the result is the copy with the overlay over it, byte for byte')
  const kept = await readdir(join(b.layout.outputJobs, id))
  must(
    kept.includes('virt-v2v.log') && kept.includes('virt-customize.log'),
    `the logs of the tools lie in the job's folder: ${kept}`,
  )
  await agent.stop()
  return image
}

async function lookInside(b: Bed, image: string, kernel: string, dir: string): Promise<void> {
  const report = await readJson<{
    pipeline: { stages: Record<string, { result: Record<string, unknown> }> }
    warnings: { message: string }[]
  }>(join(b.layout.output, 'web.report.json'))
  say(`report, fix: ${JSON.stringify(report!.pipeline.stages.fix!.result)}`)
  say(`report, inspect: ${JSON.stringify(report!.pipeline.stages.inspect!.result)}`)
  must(report!.pipeline.stages.fix!.result.initramfs_regenerated === true, 'virt-v2v rebuilt the initramfs')
  must(
    report!.warnings.some((w) => w.message.includes('stabilize-all')),
    'the report says that stabilize-all is not offered',
  )
  const version = /vmlinuz-(.+)$/.exec(kernel)![1]!
  const { stdout } = await execa('guestfish', ['--ro', '--format=qcow2', '-a', image, '-i'], {
    input: [
      '/etc/fstab',
      '/etc/hostname',
      '/etc/hosts',
      '/etc/passwd',
      '/home/ops/.ssh/authorized_keys',
      '/etc/sudoers.d/90-vmspool-ops',
      '/etc/systemd/network/20-lan.network',
    ]
      .map((f) => `cat ${f}`)
      .concat('ll /etc/systemd/system/', 'll /etc/sudoers.d')
      .join('\n'),
    env: {
      LIBGUESTFS_BACKEND: 'direct',
      LIBGUESTFS_BACKEND_SETTINGS: 'force_tcg',
      LIBGUESTFS_CACHEDIR: dir,
      SUPERMIN_KERNEL: kernel,
      SUPERMIN_KERNEL_VERSION: version,
      SUPERMIN_MODULES: kernel.replace(/\/boot\/vmlinuz-.*/, `/lib/modules/${version}`),
    },
  })
  for (const wanted of [
    '/dev/vda1',
    'fixed-guest',
    '192.0.2.7 db.example.org db',
    '127.0.1.1 fixed-guest.example.org fixed-guest',
    'ops:x:1500:',
    KEY,
    'ops ALL=(ALL:ALL) NOPASSWD: ALL',
    'DHCP=yes',
    'apt-daily.timer -> /dev/null',
  ])
    must(stdout.includes(wanted), `the guest holds ${JSON.stringify(wanted)}:\n${stdout}`)
  say('fstab, hostname, hosts, user, key, sudo, network and services are in the guest')
}

/** The fix cannot be done on this host at first; the job fails, keeps its copy, and the retry starts at the fix. */
async function retriedFromFix(b: Bed, vmdk: string, fix: object): Promise<void> {
  let agent = await b.start({ config: { fix: { ...fix, kernel: '/nowhere/boot/vmlinuz-0' } } })
  await drop(
    b,
    manifest('again', vmdk, { configuration: { hostname: 'second' }, pipeline: { fix: { required: true } } }),
  )
  const failed = await endOf(b, 'again', HOUR)
  must(failed.state === 'failed', `without a kernel the job fails: ${JSON.stringify(failed)}`)
  const text = await readFile(join(b.layout.output, 'again.error'), 'utf8')
  say(`again.error: ${text.trim().replaceAll('\n', ' | ')}`)
  must(text.includes('vmspool retry'), 'the failure says how to go on')
  await agent.stop()
  agent = await b.start()
  const at = performance.now()
  await execa(vmspool, ['retry', '--from', 'fix', 'again', '--wait', '--root', b.dir, '--instance', b.instance], {
    env: b.env,
    extendEnv: false,
  })
  const end = await endOf(b, 'again', HOUR)
  must(end.state === 'succeeded' && end.id !== failed.id, `the retry succeeds: ${JSON.stringify(end)}`)
  const steps = stepsIn(await readFile(join(b.layout.outputJobs, end.id, 'log'), 'utf8'))
  must(steps.copy!.ran === 0 && steps.copy!.taken === 1, `the copy was taken over: ${JSON.stringify(steps)}`)
  say(
    `the retry took over the copy and ended after ${Math.round((performance.now() - at) / 1000)} s: ${JSON.stringify(steps)}`,
  )
  await agent.stop()
}

/** What libguestfs and we make outside the attempt's folder, and was not there before. */
async function privateFolders(): Promise<string[]> {
  const found: string[] = []
  for (const parent of ['/tmp', process.env.TMPDIR ?? '/var/tmp'])
    for (const f of await readdir(parent))
      if (/^(libguestfs.{6}|vmspool-fix-.{6})$/.test(f)) found.push(join(parent, f))
  return found.filter((f) => !before.has(f))
}

const before = new Set<string>()
for (const f of await privateFolders()) before.add(f)
await using temp = await tempDir()
const kernel = await applianceKernel(say)
const src = await sourceDisk(temp.path)
say(`source: ${((await stat(src.vmdk)).size / 2 ** 20).toFixed(0)} MiB streamOptimized VMDK`)
const fix = { kernel, unavailable: 'fail' }
{
  const gate = await gated(temp.path)
  await using b = await bed(temp.path, { fix, timeouts: { kill_grace: '1s' }, convert: { no_progress_timeout: '15m' } })
  b.env.PATH = gate.path
  const image = await killedInEveryStep(b, gate, src, temp.path)
  await lookInside(b, image, kernel, temp.path)
  const at = performance.now()
  const said = await bootUntil({ path: image, format: 'qcow2' }, { until: /fixed-guest login:/ })
  say(
    `the fixed image boots from a virtio disk to "${/\S+ login:/.exec(said)![0]}" in ${Math.round((performance.now() - at) / 1000)} s`,
  )
  await retriedFromFix(b, src.vmdk, fix)
}
const left = await privateFolders()
must(left.length === 0, `nothing is left of the appliances: ${left}`)
