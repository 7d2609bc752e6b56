// What happens when pids come round again. Runs in a pid namespace whose numbers are few:
//   pids.process.ts CASE FOLDER
// Prints one JSON object about what became of whom.
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { endGroup, identify, isAlive, shimState, startShim, stopShim, waitShim } from '../../src/process/index.ts'
import { vmspool } from '../support/agent.ts'
import { until } from '../support/wait.ts'

writeFileSync('/proc/sys/kernel/pid_max', '400') // of this namespace alone, since Linux 6.14
// Numbers below 300 are given once only.
execFileSync('perl', ['-e', 'for (1 .. 300) { my $p = fork // die; exit if !$p; waitpid $p, 0 }'])
const [name, dir] = process.argv.slice(2) as [string, string]
const spec = (argv: string[], grace = 500) => ({
  dir: join(dir, 'run'),
  argv,
  cwd: dir,
  env: {},
  log: { path: join(dir, 'log'), max_bytes: 1e6, max_age_ms: 0, total_bytes: 1e7 },
  kill_grace_ms: grace,
})

/** Starts strangers until one has this pid, as leader of a session and group of that number: the best of disguises. */
async function strangerWith(pid: number): Promise<ReturnType<typeof identify>> {
  const search = `my $want = ${pid}; for (1 .. 5000) { my $p = fork // die; if (!$p) { exit if $$ != $want; POSIX::setsid(); exec 'sleep', '600' } exit if $p == $want; waitpid $p, 0 } exit 3`
  execFileSync('perl', ['-MPOSIX', '-e', search], { stdio: ['ignore', 'ignore', 'inherit'] })
  const id = identify(pid)
  await until('the stranger sleeps', () => readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('sleep'))
  return id
}

/** Started and running; its shim and itself can be killed. */
async function running(argv: string[]) {
  const began = await startShim(spec(argv))
  if ('failed' in began) throw new Error(JSON.stringify(began.failed))
  return began.process
}

const cases: Record<string, () => Promise<object>> = {
  /** shim and command killed, a stranger has the command's pid */
  async command() {
    const p = await running(['sleep', '600'])
    process.kill(p.shim.pid, 'SIGKILL')
    await until('the shim is gone', () => !isAlive({ ...p, ...p.shim }))
    process.kill(p.pid, 'SIGKILL')
    await until('the command is gone', () => identify(p.pid) === undefined)
    const stranger = await strangerWith(p.pid)
    const state = shimState(join(dir, 'run'))
    const stopped = await stopShim(join(dir, 'run'), { by: 'me', graceMs: 0, force: true })
    await endGroup(p, 0)
    return { same: stranger?.pid === p.pid, state: state.state, stopped: stopped.state, alive: isAlive(stranger!) }
  },
  /** the same with the pid of the shim, which is what tells whether it runs */
  async shim() {
    const p = await running(['sleep', '600'])
    // the shim first: it would write down how the command ended
    process.kill(p.shim.pid, 'SIGKILL')
    process.kill(p.pid, 'SIGKILL')
    await until('both are gone', () => identify(p.pid) === undefined && identify(p.shim.pid) === undefined)
    const stranger = await strangerWith(p.shim.pid)
    const state = shimState(join(dir, 'run'))
    const stopped = await stopShim(join(dir, 'run'), { by: 'me', graceMs: 0, force: true })
    return { same: stranger?.pid === p.shim.pid, state: state.state, stopped: stopped.state, alive: isAlive(stranger!) }
  },
  /** `vmspool run`, its shim and its command killed; `vmspool stop` and `status` by people who do not know */
  async cli() {
    const cli = (...args: string[]) => {
      const { stdout, stderr, status } = spawnSync(vmspool, args, {
        env: { ...process.env, VMSPOOL_ROOT: dir },
        encoding: 'utf8',
      })
      return { said: stdout + stderr, status }
    }
    const [started] = JSON.parse(cli('run', '--name', 'job', '-o', 'json', '--', 'sleep', '600').said) as [
      { id: string; pid: number },
    ]
    const record = JSON.parse(readFileSync(join(dir, `default/output/jobs/${started.id}/run/process.json`), 'utf8'))
    process.kill(record.shim.pid, 'SIGKILL')
    process.kill(started.pid, 'SIGKILL')
    await until('both are gone', () => identify(started.pid) === undefined && identify(record.shim.pid) === undefined)
    const stranger = await strangerWith(started.pid)
    const stop = cli('stop', '--force', 'job')
    const status = JSON.parse(cli('status', 'job', '-o', 'json').said)
    return {
      stop: stop.status,
      state: status.state,
      exit_code: status.exit_code ?? null,
      reason: status.reason,
      alive: isAlive(stranger!),
    }
  },
  /** ended and on record */
  async ended() {
    const p = await running(['true'])
    const before = await waitShim(join(dir, 'run'))
    await until('its pids are free', () => identify(p.pid) === undefined && identify(p.shim.pid) === undefined)
    const stranger = await strangerWith(p.pid)
    const stopped = await stopShim(join(dir, 'run'), { by: 'me', graceMs: 0, force: true })
    return {
      same: stranger?.pid === p.pid,
      state: before.state,
      stopped: JSON.stringify(stopped) === JSON.stringify(before) ? 'as before' : stopped.state,
      alive: isAlive(stranger!),
    }
  },
  /**
   * The command is over, a daemon that it left is asked to end and does not listen. Meanwhile all numbers go round: that of the
   * command, whose group the shim still signals, must not be given to anybody.
   */
  async winding() {
    const daemon = `perl -MPOSIX -e '$SIG{TERM} = "IGNORE"; POSIX::setsid(); open F, ">", "${dir}/daemon"; print F "$$\\n"; close F; sleep 600 while 1'`
    const s = spec(['/bin/sh', '-c', `${daemon} & while ! [ -s ${dir}/daemon ]; do sleep 0.01; done`], 600_000)
    const began = await startShim(s)
    if ('failed' in began) throw new Error(JSON.stringify(began.failed))
    const { pid } = began.process
    await until('the command is over', () => identify(pid) === undefined || !isAlive(began.process))
    const left = identify(Number(readFileSync(join(dir, 'daemon'), 'utf8')))!
    // Every number that is free is taken by a stranger with a session and group of its own, each time anew.
    const round = `my @all; for (1 .. 900) { my $p = fork // last; if (!$p) { POSIX::setsid(); sleep 600 while 1 } push @all, $p; kill KILL => shift @all if @all > 50; 1 while waitpid(-1, 1) > 0 } open F, ">", "${dir}/strangers"; print F "@all\\n"; close F; sleep 600 while 1`
    const crowd = spawn('perl', ['-MPOSIX', '-e', round], { stdio: 'ignore' })
    const numbers = await until('the strangers are there', () =>
      existsSync(join(dir, 'strangers')) ? readFileSync(join(dir, 'strangers'), 'utf8').trim() : undefined,
    )
    const strangers = numbers.split(' ').map((n) => identify(Number(n))!)
    const taken = strangers.some((s) => s.pid === pid)
    const state = await stopShim(s.dir, { by: 'me', graceMs: 0, force: true })
    const gone = strangers.filter((s) => !isAlive(s)).length
    crowd.kill('SIGKILL')
    return { strangers: strangers.length, taken, gone, state: state.state, left: isAlive(left) }
  },
}

process.stdout.write(`${JSON.stringify(await cases[name]!())}\n`)
process.exit(0)
