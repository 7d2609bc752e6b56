// Programs that start a command and come back while it runs, each with its own idea of what to keep of it.
import { spawnSync } from 'node:child_process'
import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { home } from '../test/support/agent.ts'
import { processesMarked, shimsBelow } from '../test/support/leaks.ts'
import { until } from '../test/support/wait.ts'

export interface Runner extends AsyncDisposable {
  name: string
  /** what starts a command: put in front of it */
  before: string[]
  env: Record<string, string>
  /** whether everything that was started has ended, as the runner itself tells; setsid tells nothing */
  idle(): Promise<boolean>
  /** pids of what stays beside the commands */
  own(): number[]
}

const marker = `bench-${process.pid}`
/** Of all that a runner starts, so that it can be found and ended. */
const mark = { VMSPOOL_TEST_BED: marker }

/** The package as it is installed: a checkout would strip the types of its sources. @returns its program */
export async function installed(dir: string): Promise<string> {
  await execa(process.execPath, [join(home, 'scripts/build.ts')], { cwd: home })
  const modules = join(dir, 'node_modules')
  await mkdir(join(modules, '.bin'), { recursive: true })
  for (const part of ['bin', 'dist', 'package.json', 'systemd'])
    await cp(join(home, part), join(modules, 'vmspool', part), { recursive: true })
  for (const name of await readdir(join(home, 'node_modules')))
    if (!name.startsWith('.')) await symlink(join(home, 'node_modules', name), join(modules, name))
  await symlink(process.execPath, join(modules, '.bin/node'))
  return join(modules, 'vmspool/bin/vmspool')
}

export async function vmspoolRun(vmspool: string, dir: string, fsync: boolean): Promise<Runner> {
  await mkdir(dir, { recursive: true })
  const started = join(dir, 'default/jobs/started')
  return {
    name: fsync ? 'vmspool run' : 'vmspool run --no-fsync',
    before: [vmspool, 'run', '--root', dir, ...(fsync ? [] : ['--no-fsync']), '--'],
    env: mark,
    idle: async () => (await readdir(started).catch(() => [])).length === 0 && shimsBelow(dir).length === 0,
    own: () => shimsBelow(dir),
    [Symbol.asyncDispose]: () => endAll(() => shimsBelow(dir).length === 0),
  }
}

export async function taskSpoolerRun(dir: string, slots: number): Promise<Runner> {
  await mkdir(dir, { recursive: true })
  const env = { ...mark, TS_SOCKET: join(dir, 'socket'), TMPDIR: dir, TS_MAXFINISHED: '100000' }
  await execa('tsp', ['-S', String(slots)], { env })
  return {
    name: 'task-spooler',
    before: ['tsp'],
    env,
    idle: async () => !/\b(queued|running)\b/.test((await execa('tsp', ['-l'], { env })).stdout),
    own: () =>
      processesMarked(`TS_SOCKET=${env.TS_SOCKET}`)
        .filter((p) => /^tsp\b/.test(p.command))
        .map((p) => p.pid),
    [Symbol.asyncDispose]: async () => {
      await execa('tsp', ['-K'], { env, reject: false })
      await endAll(() => true)
    },
  }
}

/** nq runs what is in one folder one after the other: commands that are to run side by side get a folder each. */
export async function nqRun(dir: string, side: 'by side' | 'after the other'): Promise<Runner> {
  await mkdir(dir, { recursive: true })
  const env = { ...mark, NQDIR: dir }
  const script = `NQDIR=$(mktemp -d ${dir}/XXXXXX) exec nq -q "$@"`
  return {
    name: 'nq',
    before: side === 'by side' ? ['sh', '-c', script, 'sh'] : ['nq', '-q'],
    env,
    idle: async () => (await execa('nq', ['-t'], { env, reject: false })).exitCode === 0,
    own: () =>
      processesMarked(`VMSPOOL_TEST_BED=${marker}`)
        .filter((p) => /^nq\b/.test(p.command))
        .map((p) => p.pid),
    [Symbol.asyncDispose]: () => endAll(() => true),
  }
}

export async function setsid(): Promise<Runner> {
  return {
    name: 'setsid',
    before: ['setsid', '-f'],
    env: mark,
    idle: async () => true,
    own: () => [],
    [Symbol.asyncDispose]: () => endAll(() => true),
  }
}

async function endAll(gone: () => boolean): Promise<void> {
  await until('the commands of the benchmark are gone', () => {
    const left = processesMarked(`VMSPOOL_TEST_BED=${marker}`)
    for (const p of left) {
      try {
        process.kill(p.pid, 'SIGKILL')
      } catch {
        // ended by itself
      }
    }
    return left.length === 0 && gone()
  })
}

/** Runs each line of words in turn and prints, for each, ms until it had ended and until its command had begun. */
const timer = `
my ($rounds, $pause, @sides) = @ARGV;
sub now { my $b = "\\0" x 16; syscall ${process.arch === 'arm64' ? 113 : 228}, 0, $b; my ($s, $ns) = unpack 'qq', $b; $s * 1000 + $ns / 1e6 }
sub used { my $b = "\\0" x 144; syscall ${process.arch === 'arm64' ? 165 : 98}, -1, $b; my @t = unpack 'qqqq', $b; ($t[0] + $t[2]) * 1000 + ($t[1] + $t[3]) / 1000 }
for my $round (1 .. $rounds) {
  for my $i (0 .. $#sides) {
    my ($file, @line) = split /\\x1f/, $sides[$i], -1;
    unlink $file;
    my ($cpu, $t) = (used(), now());
    my $p = fork;
    if (!$p) { open STDOUT, '>', '/dev/null'; while ($line[0] =~ /^\\w+=/) { my ($k, $v) = split /=/, shift @line, 2; $ENV{$k} = $v } exec @line; exit 127 }
    waitpid $p, 0;
    die "$line[0] ended with $?" if $?;
    my $took = now() - $t;
    $cpu = used() - $cpu;
    my $began = 'NaN';
    if ($file) {
      select undef, undef, undef, 0.001 until -s $file;
      open my $f, '<', $file; $began = <$f> / 1e6 - $t;
    }
    print "$i $took $began $cpu\\n";
    select undef, undef, undef, $pause;
  }
}`

export interface Timing {
  /** ms until the runner had come back */
  back: number[]
  /** ms until the first instruction of the command */
  began: number[]
  /** ms of processor time until it had come back, its own and that of children that it waited for */
  cpu: number[]
}

/**
 * Times several programs in turn, from a small process of its own: Node's own way to start a process takes longer than some of them.
 * @param lines a runner, or a plain command, in front of which NAME=VALUE may stand
 */
export function timeInTurn(
  dir: string,
  rounds: number,
  lines: readonly { runner?: Runner; argv?: readonly string[] }[],
): Timing[] {
  const sides = lines.map(({ runner, argv }, i) => {
    if (!runner) return ['', ...argv!].join('\x1f')
    const file = join(dir, `began-${i}`)
    const env = Object.entries(runner.env).map(([k, v]) => `${k}=${v}`)
    return [file, ...env, ...runner.before, 'sh', '-c', `date +%s%N > ${file}.tmp; mv ${file}.tmp ${file}`].join('\x1f')
  })
  const r = spawnSync('perl', ['-e', timer, String(rounds), '0.03', ...sides], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (r.status !== 0) throw new Error(`The timer ended with ${r.status}: ${r.stderr}`)
  const out: Timing[] = lines.map(() => ({ back: [], began: [], cpu: [] }))
  for (const line of r.stdout.trim().split('\n')) {
    const [i, back, began, cpu] = line.split(' ').map(Number) as [number, number, number, number]
    out[i]!.back.push(back)
    out[i]!.began.push(began)
    out[i]!.cpu.push(cpu)
  }
  return out
}

/** `n` commands one after the other, as fast as the runner takes them; per second: submissions, and commands until all have ended. */
export async function throughput(r: Runner, dir: string, n: number): Promise<{ submitted: number; ended: number }> {
  const file = join(dir, `done-${r.name.replaceAll(/\W+/g, '-')}`)
  await writeFile(file, '')
  const at = performance.now()
  await execa(
    'sh',
    [
      '-c',
      `i=0; while [ $i -lt ${n} ]; do "$@" >/dev/null; i=$((i+1)); done`,
      'sh',
      ...r.before,
      'sh',
      '-c',
      `echo x >> ${file}`,
    ],
    {
      env: r.env,
      stdin: 'ignore',
    },
  )
  const submitted = performance.now() - at
  await until(
    `all commands of ${r.name} have ended`,
    async () => (await readFile(file, 'utf8')).length >= 2 * n && (await r.idle()),
    { deadline_ms: 600_000, every_ms: 5 },
  )
  const took = performance.now() - at
  await rm(file)
  return { submitted: n / (submitted / 1000), ended: n / (took / 1000) }
}

/** KiB per command of what stays beside `n` sleeping ones: its share of what is shared, and what is its alone. */
export async function memoryPerCommand(r: Runner, n: number): Promise<{ processes: number; pss: number; own: number }> {
  await execa(
    'sh',
    ['-c', `i=0; while [ $i -lt ${n} ]; do "$@" >/dev/null; i=$((i+1)); done`, 'sh', ...r.before, 'sleep', '3600'],
    {
      env: r.env,
      stdin: 'ignore',
    },
  )
  await until(
    `${n} commands of ${r.name} run`,
    () => processesMarked(`VMSPOOL_TEST_BED=${marker}`).filter((p) => p.command === 'sleep 3600').length === n,
    { deadline_ms: 120_000 },
  )
  const pids = r.own()
  let pss = 0
  let own = 0
  for (const pid of pids) {
    const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8')
    const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0)
    pss += kib('Pss')
    own += kib('Private_Clean') + kib('Private_Dirty')
  }
  return { processes: pids.length, pss: pss / n, own: own / n }
}
