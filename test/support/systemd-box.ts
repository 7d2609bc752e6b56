// systemd as PID 1 in a container over this host's own root: booted in a second, without a download, gone without a trace.
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { until } from './wait.ts'

export interface SystemdBox extends AsyncDisposable {
  /** its root as this host sees it: changes are made in memory and are gone afterwards */
  root: string
  /** runs a program inside; its output, both streams */
  run(argv: string[], o?: { env?: Record<string, string> }): { code: number | null; out: string }
}

const sh = (program: string, ...args: string[]): void => {
  execFileSync(program, args, { stdio: ['ignore', 'ignore', 'inherit'] })
}

const CONTROLLERS = ['cpu', 'cpuacct', 'cpuset', 'memory', 'devices', 'freezer', 'blkio', 'pids', 'systemd', 'unified']

/** Our own place in each hierarchy of control groups (v1): systemd would leave groups of its own in the host's roots. */
function groupsOf(name: string): string[] {
  const base = '/sys/fs/cgroup'
  if (existsSync(join(base, 'cgroup.controllers'))) return []
  const own = readFileSync('/proc/self/cgroup', 'utf8')
  return CONTROLLERS.flatMap((c) => {
    const dir = join(base, c)
    if (!existsSync(dir)) return []
    const at = c === 'memory' ? (/:memory:(.*)/.exec(own)?.[1] ?? '') : ''
    return [join(dir, at, name)]
  })
}

function enter(group: string): string {
  const parent = join(group, '..')
  mkdirSync(group, { recursive: true })
  if (existsSync(join(group, 'cpuset.cpus')))
    for (const file of ['cpuset.cpus', 'cpuset.mems'])
      writeFileSync(join(group, file), readFileSync(join(parent, file)))
  return join(group, 'cgroup.procs')
}

function removeGroups(dir: string): void {
  if (!existsSync(dir)) return
  for (const e of readdirSync(dir)) if (statSync(join(dir, e)).isDirectory()) removeGroups(join(dir, e))
  try {
    execFileSync('rmdir', [dir], { stdio: 'ignore' })
  } catch {
    // a process is still leaving it; the caller looks again
  }
}

/** @throws Error when no container can be made here (no root, no overlay) */
export async function systemdBox(): Promise<SystemdBox> {
  const dir = mkdtempSync(join(tmpdir(), 'vs-systemd-'))
  const name = dir.slice(dir.lastIndexOf('/') + 1).toLowerCase()
  sh('mount', '-t', 'tmpfs', 'tmpfs', dir)
  const root = join(dir, 'root')
  for (const d of ['up', 'work', 'root']) mkdirSync(join(dir, d))
  sh('mount', '-t', 'overlay', 'overlay', '-o', `lowerdir=/,upperdir=${dir}/up,workdir=${dir}/work`, root)
  rmSync(join(root, 'etc/machine-id'), { force: true })
  writeFileSync(join(root, 'etc/machine-id'), 'uninitialized\n')
  const units = join(root, 'etc/systemd/system')
  mkdirSync(units, { recursive: true })
  for (const unit of ['getty.target', 'nftables.service']) {
    rmSync(join(units, unit), { force: true })
    symlinkSync('/dev/null', join(units, unit))
  }
  const groups = groupsOf(name)
  const enterAll = groups.map((g) => `echo $$ > ${enter(g)}`).join('\n')
  const nspawn = `systemd-nspawn -D ${root} --boot --private-network --register=no --keep-unit -M ${name} --capability=all systemd.unit=basic.target`
  const child: ChildProcess = spawn('bash', ['-c', `${enterAll}\nexec ${nspawn}`], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const said: string[] = []
  for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (c) => said.push(String(c)))
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()))
  const leader = await until(
    'systemd has a process',
    () => {
      if (child.exitCode !== null) throw new Error(`The container did not start:\n${said.join('')}`)
      return spawnSync('pgrep', ['-P', String(child.pid)], { encoding: 'utf8' }).stdout.split('\n')[0]
    },
    { every_ms: 50 },
  )
  const inside = (argv: string[], env: Record<string, string> = {}) => {
    const words = ['-t', leader, '-a', 'env', ...Object.entries(env).map(([k, v]) => `${k}=${v}`), ...argv]
    const r = spawnSync('nsenter', words, { encoding: 'utf8' })
    return { code: r.status, out: r.stdout + r.stderr }
  }
  await until('systemd is up', () => /running|degraded/.test(inside(['systemctl', 'is-system-running']).out), {
    every_ms: 100,
    also: () => said.join(''),
  })
  if (groups.length > 0) {
    // nspawn mounts the controllers of v1 read-only: limits would silently not be applied.
    for (const c of ['memory', 'cpu', 'cpuacct', 'pids'])
      spawnSync('nsenter', ['-t', leader, '-m', 'mount', '-o', 'remount,bind,rw', `/sys/fs/cgroup/${c}`])
    inside(['systemctl', 'daemon-reexec'])
  }
  return {
    root,
    run: (argv, o) => inside(argv, o?.env),
    async [Symbol.asyncDispose]() {
      spawnSync('kill', ['-s', 'RTMIN+4', leader]) // an orderly power-off
      const late = setTimeout(() => child.kill('SIGKILL'), 20_000)
      await ended
      clearTimeout(late)
      await until('its control groups are gone', () => {
        for (const g of groups) removeGroups(g)
        return groups.every((g) => !existsSync(g))
      })
      sh('umount', root)
      sh('umount', dir)
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
