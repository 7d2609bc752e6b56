// A real systemd as PID 1: a container (systemd-nspawn) whose root is this host's own below a layer in memory, with our units in it.
// Nothing is downloaded and nothing is written to the host; the mounts live in a name space of their own and end with it.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { home } from './agent.ts'
import { type OwnCgroup, ownCgroup } from './own-cgroup.ts'
import { until } from './wait.ts'

export interface BoxProcess {
  /** as the host sees it */
  pid: number
  argv: string[]
}

export interface SystemdBox extends AsyncDisposable {
  /** the container's root, as the host can reach it */
  root: string
  /** runs a program in it, as root; never throws */
  run(...argv: string[]): Promise<{ code: number; stdout: string; stderr: string }>
  /** the same; what it prints. @throws when it does not end with 0 */
  ok(...argv: string[]): Promise<string>
  /** a property of a unit, as `systemctl show` prints it */
  show(unit: string, property: string): Promise<string>
  /** processes of a unit, by its control group */
  processes(unit: string): BoxProcess[]
  /** what PID 1 and the journal know, for a failed wait */
  console(): string
}

const V1_LIMITS = ['memory', 'cpu', 'cpuacct', 'pids', 'blkio']
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Why there can be no box here; undefined when there can. */
export async function noBox(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'only root can start a container'
  for (const program of ['systemd-nspawn', 'nsenter', 'unshare', 'systemd-analyze'])
    if (!PATH.split(':').some((dir) => existsSync(join(dir, program)))) return `${program} is not installed`
  const dir = await mkdtemp(join(tmpdir(), 'vs-'))
  try {
    await execa('unshare', ['--mount', '--propagation', 'private', 'sh', '-ec', layers, 'sh', dir, 'true'])
    const group = ownCgroup(`vmspool-probe-${randomUUID().slice(0, 8)}`)
    if (!group.remove()) return 'control groups cannot be removed here'
    return undefined
  } catch (e) {
    return (e as { stderr?: string }).stderr || (e as Error).message
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** In a mount name space of its own: a layer in memory over the host's root at $1/m/root. */
const layers = `mkdir -p "$1/m"; mount -t tmpfs tmpfs "$1/m"; mkdir "$1/m/up" "$1/m/work" "$1/m/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/m/up,workdir=$1/m/work" "$1/m/root"
shift; exec "$@"`

/**
 * @param o.bare nothing of ours is in it but the checkout at /opt/checkout, for tests of installing
 * @param o.bind folders of this host, by where they are seen in it, read-only
 * @param o.devices of this host, besides /dev/kvm
 */
export async function systemdBox(
  o: { bare?: boolean; bind?: Record<string, string>; devices?: string[] } = {},
): Promise<SystemdBox> {
  const dir = await mkdtemp(join(tmpdir(), 'vs-'))
  const name = `vmspool-${randomUUID().slice(0, 8)}`
  const group = ownCgroup(name)
  const prepared = `${bare}${o.bare ? '' : install}exec "$@"`
  const kvm = existsSync('/dev/kvm') ? ['--bind=/dev/kvm'] : []
  // It waits for a word, so that it is in its control group before it begins.
  const keeper = spawn(
    'unshare',
    [
      ...['--mount', '--propagation', 'private', 'sh', '-ec', `read go; ${layers}`, 'sh', dir, 'sh', '-ec', prepared],
      ...['sh', `${dir}/m/root`, join(home, 'systemd')],
      ...['systemd-nspawn', '--quiet', '-D', `${dir}/m/root`, '--boot', '--private-network', '--register=no'],
      ...['--keep-unit', '-M', name, '--capability=all', ...kvm],
      ...[`--bind-ro=${home}:${o.bare ? '/opt/checkout' : '/usr/lib/vmspool'}`],
      ...(o.devices ?? []).map((device) => `--bind=${device}`),
      ...Object.entries(o.bind ?? {}).map(([inside, here]) => `--bind-ro=${here}:${inside}`),
      'systemd.unit=basic.target',
    ],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  )
  const said: Buffer[] = []
  keeper.stdout.on('data', (d: Buffer) => said.push(d))
  keeper.stderr.on('data', (d: Buffer) => said.push(d))
  const text = (): string => Buffer.concat(said).toString()
  const ended = new Promise<void>((resolve) => keeper.on('close', () => resolve()))
  try {
    group.take(keeper.pid as number)
    keeper.stdin.end('go\n')
    return await booted(dir, keeper, group, ended, text)
  } catch (e) {
    keeper.kill('SIGKILL')
    await removed(dir, group)
    throw e
  }
}

/** Everything that is on this host and not ours is left out. */
const bare = `root=$1 units=$2; shift 2
rm -rf "$root/etc/systemd/system" "$root/etc/vmspool" "$root/var/cache/vmspool" "$root/var/lib/vmspool" "$root/var/log/journal"
mkdir -p "$root/etc/systemd/system" "$root/usr/local/bin"
echo uninitialized >"$root/etc/machine-id"
for unit in getty.target systemd-udevd.service systemd-udev-trigger.service systemd-tmpfiles-clean.timer; do ln -s /dev/null "$root/etc/systemd/system/$unit"; done
`
/** Then our units, as an installation puts them there. */
const install = `mkdir -p "$root/usr/lib/vmspool" "$root/usr/lib/sysusers.d" "$root/usr/lib/tmpfiles.d" "$root/etc/vmspool"
cp "$units"/agent*.service "$units"/agent.target "$root/etc/systemd/system/"
cp "$units/vmspool.sysusers" "$root/usr/lib/sysusers.d/vmspool.conf"
cp "$units/vmspool.tmpfiles" "$root/usr/lib/tmpfiles.d/vmspool.conf"
systemd-sysusers --root="$root" vmspool.conf >/dev/null
ln -sf /usr/lib/vmspool/bin/vmspool "$root/usr/local/bin/vmspool"
`

async function booted(
  dir: string,
  keeper: ChildProcess,
  group: OwnCgroup,
  ended: Promise<void>,
  text: () => string,
): Promise<SystemdBox> {
  const leader = await until(
    'the container has a PID 1',
    () => {
      if (keeper.exitCode !== null) throw new Error(`The container ended at once:\n${text()}`)
      return group.pids().find((pid) => pidInside(pid) === 1)
    },
    { also: text },
  )
  const enter = ['--target', String(leader), '--all', '--', 'env', '-i', `PATH=${PATH}`, 'LANG=C.UTF-8', 'TERM=dumb']
  const run: SystemdBox['run'] = async (...argv) => {
    const r = await execa('nsenter', [...enter, ...argv], { reject: false, stdin: 'ignore' })
    return { code: r.exitCode ?? 255, stdout: r.stdout, stderr: r.stderr }
  }
  const ok: SystemdBox['ok'] = async (...argv) => {
    const r = await run(...argv)
    if (r.code !== 0) {
      const journal = await run('journalctl', '--no-pager', '-o', 'cat', '-n', '60')
      throw new Error(`\`${argv.join(' ')}\` ended with ${r.code}: ${r.stderr}${r.stdout}\n${journal.stdout}`)
    }
    return r.stdout
  }
  await until(
    'systemd is up',
    async () => /^(running|degraded)/.test((await run('systemctl', 'is-system-running')).stdout),
    {
      also: text,
      every_ms: 50,
    },
  )
  // nspawn puts a boot id of its own over the kernel's, but units with ProtectKernelTunables= see the kernel's: two hosts to us.
  await run('umount', '/proc/sys/kernel/random/boot_id')
  // nspawn mounts the controllers of version 1 read-only, and limits are then silently not applied.
  const v1 = V1_LIMITS.filter((c) => existsSync(`/sys/fs/cgroup/${c}/cgroup.procs`))
  for (const c of v1) {
    await execa('nsenter', ['-t', String(leader), '-m', 'mount', '-o', 'remount,bind,rw', `/sys/fs/cgroup/${c}`], {
      reject: false,
    })
  }
  if (v1.length > 0) await ok('systemctl', 'daemon-reexec')

  return {
    root: `/proc/${leader}/root`,
    run,
    ok,
    show: async (unit, property) => (await ok('systemctl', 'show', '--property', property, '--value', unit)).trim(),
    processes(unit) {
      return group
        .pids()
        .filter((pid) => read(`/proc/${pid}/cgroup`).includes(`/${unit}\n`))
        .map((pid) => ({ pid, argv: read(`/proc/${pid}/cmdline`).split('\0').slice(0, -1) }))
        .filter((p) => p.argv.length > 0)
    },
    console: text,
    async [Symbol.asyncDispose]() {
      // poweroff; Node has no names for real-time signals
      await execa('kill', ['-s', 'RTMIN+4', String(leader)], { reject: false })
      const late = setTimeout(() => keeper.kill('SIGKILL'), 15_000)
      await ended
      clearTimeout(late)
      await removed(dir, group)
    },
  }
}

async function removed(dir: string, group: OwnCgroup): Promise<void> {
  await until('the control group of the container is gone', () => group.remove(), {
    also: () => group.pids().join(' '),
  })
  await rm(dir, { recursive: true, force: true })
}

/** The process id in the innermost pid name space. */
function pidInside(pid: number): number | undefined {
  const ids = /^NSpid:\s*(.+)$/m.exec(read(`/proc/${pid}/status`))?.[1]?.split(/\s+/)
  return ids && ids.length > 1 ? Number(ids.at(-1)) : undefined
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
