// A control group of a test's own in every hierarchy, so that a systemd started in it makes its groups below it and not beside the host's.
import { type Dirent, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface OwnCgroup {
  /** the folders of the group, one per hierarchy; systemd's own (or the only one) first */
  dirs: readonly string[]
  /** moves a process into it */
  take(pid: number): void
  /** all processes in it and below it */
  pids(): number[]
  /** ends what is left in it and removes it; false when it cannot be removed yet */
  remove(): boolean
}

/** @throws where a hierarchy cannot be written */
export function ownCgroup(name: string): OwnCgroup {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter((f) => f.includes('cgroup') || f.includes('cgroup2'))
    .map((f) => ({ point: f[4] as string, type: f[f.indexOf('-') + 1], options: (f.at(-1) ?? '').split(',') }))
  const dirs: string[] = []
  for (const line of readFileSync('/proc/self/cgroup', 'utf8').trim().split('\n')) {
    const [id, controllers = '', ...path] = line.split(':')
    const mount =
      id === '0'
        ? mounts.find((m) => m.type === 'cgroup2')
        : mounts.find((m) => m.type === 'cgroup' && m.options.includes(controllers.split(',')[0] as string))
    if (!mount) continue
    const parent = join(mount.point, path.join(':'))
    const dir = join(parent, name)
    mkdirSync(dir)
    if (controllers.includes('name=systemd') || (id === '0' && dirs.length === 0)) dirs.unshift(dir)
    else dirs.push(dir)
    // A v1 cpuset begins empty, and takes in nobody then.
    for (const file of ['cpuset.cpus', 'cpuset.mems'])
      if (id !== '0' && existsSync(join(dir, file)))
        writeFileSync(join(dir, file), readFileSync(join(parent, file), 'utf8'))
  }
  if (dirs.length === 0) throw new Error('No control groups are mounted here.')
  const own: OwnCgroup = {
    dirs,
    take(pid) {
      for (const dir of dirs) writeFileSync(join(dir, 'cgroup.procs'), String(pid))
    },
    pids: () => [...new Set(dirs.flatMap(tree).flatMap(procs))],
    remove() {
      for (const pid of own.pids()) {
        try {
          process.kill(pid, 'SIGKILL')
        } catch {
          // ended by itself
        }
      }
      let gone = true
      for (const dir of dirs.flatMap(tree).reverse()) {
        try {
          rmdirSync(dir)
        } catch (e) {
          if ((e as NodeJS.ErrnoException).code !== 'ENOENT') gone = false
        }
      }
      return gone
    },
  }
  return own
}

/** A group and all below it, from the top. */
function tree(dir: string): string[] {
  let below: Dirent[] = []
  try {
    below = readdirSync(dir, { withFileTypes: true })
  } catch {
    return []
  }
  return [dir, ...below.filter((e) => e.isDirectory()).flatMap((e) => tree(join(dir, e.name)))]
}

function procs(dir: string): number[] {
  try {
    return readFileSync(join(dir, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number)
  } catch {
    return []
  }
}
