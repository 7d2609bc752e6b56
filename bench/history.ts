// The history: how long a list takes with more and more finished jobs, and how fast the index is made. A part of `npm run bench:process`;
// by itself: `node bench/history.ts [--quick]`. Run by hand; fails nothing.
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { withIndex } from '../src/client/history-work.ts'
import { columns } from '../src/history/job-row.ts'
import type { Layout } from '../src/spool/layout.ts'
import { makeSpool } from '../src/spool/spool.ts'
import { idOf, jobOf, makeJob, makeLayout } from '../test/support/finished-jobs.ts'
import { machine, memoryMiB, percentile, settle, table } from './measure.ts'
import { installed, timeInTurn } from './runners.ts'

/** With more jobs than this only the newest have files: the rest of the index is written as a scan would have written it. */
const MOST_FILES = 100_000
const SOME_FILES = 2_000

/**
 * @param vmspool the program, as it is installed
 * @param dir a private folder. @returns what it prints, line by line
 */
export async function historyBench(
  vmspool: string,
  dir: string,
  o: {
    quick?: boolean
    say?: (text: string) => void
    aim?: (what: string, measured: number, most: number) => void
  } = {},
): Promise<string[]> {
  const lines: string[] = []
  const say = (text: string) => {
    lines.push(text)
    o.say?.(text)
  }
  const rounds = o.quick ? 5 : 21
  const sizes = o.quick ? [1_000, 10_000] : [1_000, 100_000, 1_000_000]
  const rows: (string | number)[][] = []
  const rates: (string | number)[][] = []
  const asked: string[][] = []
  for (const n of sizes) {
    const root = join(dir, `s${n}`)
    const layout = makeLayout(root)
    const path = join(root, 'history.db')
    for (let i = Math.max(0, n - (n > MOST_FILES ? SOME_FILES : n)); i < n; i++) makeJob(layout, i)
    await settle(dir)
    if (n <= MOST_FILES) rates.push([n.toLocaleString('en-US'), ...(await rebuild(vmspool, root, path))])
    else await fill(layout, path, n)
    await settle(dir)
    const list = (history: string, ...args: string[]) => [
      `VMSPOOL_HISTORY_PATH=${history}`,
      ...[vmspool, 'list', '--root', root, ...args],
    ]
    const { node, all } = times(dir, rounds, [
      list(path),
      list(path, '--state', 'failed'),
      list(path, '--name', jobOf(n - 3).answer),
    ])
    const [plain, failed, named] = all as [Times, Times, Times]
    const [folders] = n > MOST_FILES ? [] : times(dir, 3, [list('/proc/none/history.db')]).all
    rows.push([
      n.toLocaleString('en-US'),
      node,
      plain.beyond,
      plain.least,
      plain.cpu,
      failed.cpu,
      named.cpu,
      folders?.cpu ?? '-',
      plain.cpu / (typeof rows[0]?.[4] === 'number' ? rows[0][4] : plain.cpu),
    ])
    if (n === sizes.at(-1))
      o.aim?.(
        `\`vmspool list\` with ${n.toLocaleString('en-US')} finished jobs beyond Node’s start, ms`,
        plain.least,
        50,
      )
    asked.push([n.toLocaleString('en-US'), ...questions(vmspool, root, path, rounds)])
    await rm(root, { recursive: true })
  }
  say(
    `\n\`vmspool list\` (the newest 50) with finished jobs, beyond what \`node -e ''\` took in the same of ${rounds} rounds: the median of the clock's, the least to Node's least, and the least CPU time, which other load changes little; the columns with words are CPU time:\n`,
  )
  say(
    table(
      [
        'finished jobs',
        'Node ms',
        'list ms',
        'least ms',
        'CPU ms',
        '--state failed',
        '--name',
        'by the folders',
        'CPU to the first',
      ],
      rows,
    ),
  )
  say(
    `\nOf more than ${MOST_FILES.toLocaleString('en-US')} jobs only the newest ${SOME_FILES.toLocaleString('en-US')} have files; the index has all.`,
  )
  say('\n`vmspool history rebuild`, from the files alone:\n')
  say(table(['finished jobs', 'jobs/s', 'peak RSS MiB', 'database MiB'], rates))
  say(
    '\nThe ten newest killed tasks and all questions of `stats`, in ms; Ghost is its own table with its own indexes, asked by the same program:\n',
  )
  say(
    table(
      ['finished jobs', 'sqlite3, view tasks', "sqlite3, Ghost's table", 'vmspool stats', 'vmspool history search'],
      asked,
    ),
  )
  return lines
}

interface Times {
  /** median, ms */
  wall: number
  /** beyond `node -e ''` of the same round: median, and least to least, ms */
  beyond: number
  least: number
  /** least user and system time beyond Node's least, ms: other load changes it little */
  cpu: number
}

/** Commands in turn with Node alone, so that all see the same load of the machine. The first words may be NAME=VALUE. */
function times(dir: string, rounds: number, commands: readonly (readonly string[])[]): { node: number; all: Times[] } {
  const lines = [[process.execPath, '-e', ''], ...commands].map((argv) => ({ argv }))
  timeInTurn(dir, 1, lines) // fills caches
  const [node, ...others] = timeInTurn(dir, rounds, lines)
  const { back, cpu } = node!
  return {
    node: percentile(back, 50),
    all: others.map((t) => ({
      wall: percentile(t.back, 50),
      beyond: percentile(
        t.back.map((ms, i) => ms - back[i]!),
        50,
      ),
      least: Math.min(...t.back) - Math.min(...back),
      cpu: Math.min(...t.cpu) - Math.min(...cpu),
    })),
  }
}

async function rebuild(vmspool: string, root: string, path: string): Promise<(string | number)[]> {
  const child = spawn(vmspool, ['history', 'rebuild', '-o', 'json', '--root', root], {
    env: { ...process.env, VMSPOOL_HISTORY_PATH: path },
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  let peak = 0
  const timer = setInterval(() => {
    try {
      peak = Math.max(peak, memoryMiB(child.pid!).peak)
    } catch {
      // it has ended
    }
  }, 20)
  let told = ''
  for await (const chunk of child.stdout) told += chunk
  clearInterval(timer)
  const [done] = JSON.parse(told) as { jobs: number; took_ms: number }[]
  const size = new DatabaseSync(path, { readOnly: true }).prepare('PRAGMA page_count').get() as { page_count: number }
  return [(done!.jobs / done!.took_ms) * 1000, peak, (size.page_count * 4096) / 2 ** 20]
}

/** An index of `n` jobs: the last ones from their files, the others as rows. */
async function fill(layout: Layout, path: string, n: number): Promise<void> {
  const view = { instance: layout.instance, layout, spool: makeSpool({ layout }), history: path }
  await withIndex(view, {}, (h, spool) => {
    const first = h.db.prepare('SELECT * FROM job ORDER BY id LIMIT 10').all()
    const put = h.db.prepare(
      `INSERT INTO job (spool, generation, ${columns.join(', ')}) VALUES (?, 1, ${columns.map(() => '?').join(', ')})`,
    )
    h.db.exec('PRAGMA cache_size = -65536')
    for (let i = 0; i < n - SOME_FILES; ) {
      h.db.exec('BEGIN')
      for (const end = Math.min(i + 10_000, n - SOME_FILES); i < end; i++) {
        // SOME_FILES is a multiple of ten, so that the n-th of ten is what jobOf() makes of it.
        const like = first[i % 10]!
        const moved = { ...like, id: idOf(i), name: `old-${i % 1000}` }
        put.run(spool, ...columns.map((c) => (moved as typeof like)[c]!))
      }
      h.db.exec('COMMIT')
    }
  })
}

function questions(vmspool: string, root: string, path: string, rounds: number): string[] {
  const ghost = join(root, 'tasks.db')
  const db = new DatabaseSync(ghost)
  db.exec(`CREATE TABLE tasks (id TEXT PRIMARY KEY, pid INTEGER NOT NULL, pgid INTEGER, command TEXT NOT NULL, env TEXT, cwd TEXT,
    status TEXT NOT NULL DEFAULT 'running', exit_code INTEGER, started_at INTEGER NOT NULL, finished_at INTEGER, log_path TEXT NOT NULL);
    ATTACH '${path}' AS h; INSERT INTO tasks SELECT * FROM h.tasks; DETACH h;
    CREATE INDEX idx_tasks_status ON tasks(status); CREATE INDEX idx_tasks_pid ON tasks(pid);
    CREATE INDEX idx_tasks_started_at ON tasks(started_at)`)
  db.close()
  const sql =
    "SELECT id, pid, status, started_at, command, cwd FROM tasks WHERE status = 'killed' ORDER BY started_at DESC LIMIT 10"
  const own = `VMSPOOL_HISTORY_PATH=${path}`
  return times(root, Math.min(rounds, 7), [
    ['sqlite3', '-readonly', path, sql],
    ['sqlite3', '-readonly', ghost, sql],
    [own, vmspool, 'stats', '--root', root],
    [own, vmspool, 'history', 'search', 'vm-123*', '--root', root],
  ]).all.map((t) => t.wall.toFixed(0))
}

if (process.argv[1] === import.meta.filename) {
  const dir = await mkdtemp(join(tmpdir(), 'vshist-'))
  try {
    process.stdout.write(`Machine: ${await machine(dir)}.\n`)
    await historyBench(await installed(dir), dir, {
      quick: process.argv.includes('--quick'),
      say: (text) => process.stdout.write(`${text}\n`),
    })
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}
