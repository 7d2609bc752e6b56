// The screens in a real terminal, over spools that stand still: what is where, at which size, with which characters.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { layoutOf } from '../../src/spool/index.ts'
import { width } from '../../src/text/width.ts'
import { cli } from '../cli/run.ts'
import { home, vmspool } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { type Pane, pane } from './pane.ts'
import { emptySpool, idOf, manyJobs, putJob, statusOf } from './synthetic.ts'

const at = '2026-01-01T00:00:00.000Z'
const lines = (screen: string): string[] => screen.split('\n')

/** A terminal in which the program runs over a spool of this root. */
async function tui(
  dir: string,
  root: string,
  o: { columns?: number; rows?: number; env?: NodeJS.ProcessEnv; prefix?: string } = {},
): Promise<Pane> {
  const p = await pane(dir, o)
  try {
    await p.type(`clear; ${o.prefix ?? ''}${vmspool} tui --root ${root}`)
    await p.keys('Enter')
    await p.sees('? help')
    return p
  } catch (error) {
    await p[Symbol.asyncDispose]()
    throw error
  }
}

/** One job of every sort, the newest first in this order. */
async function sampler(root: string): Promise<void> {
  const layout = await emptySpool(root)
  const command = { kind: 'command', command: ['/bin/sh', '-c', 'make all'], cwd: '/srv' }
  const jobs = [
    statusOf(1, { name: 'old', exit_code: 0 }),
    statusOf(2, { ...command, name: 'make', state: 'failed', exit_code: 3, reason: 'make ended with exit code 3.' }),
    statusOf(3, { ...command, name: 'killed', state: 'cancelled', signal: 'SIGKILL', reason: 'Cancelled by root.' }),
    statusOf(4, {
      name: '仮想マシン-🚀-e\u0301te\u0301',
      state: 'queued',
      waiting_on: 'job old',
      finished_at: undefined,
    }),
    statusOf(5, {
      name: 'evil\u001b[2J\u0007name',
      state: 'running',
      finished_at: undefined,
      phase: 'copy',
      progress: {
        percent: 52.5,
        bytes_done: 2 ** 31,
        bytes_total: 2 ** 32,
        rate_bytes_per_s: 220 * 2 ** 20,
        eta_ms: 9700,
      },
    }),
  ]
  for (const job of jobs) await putJob(layout, job)
  await writeFile(join(layout.output, 'old.qcow2'), Buffer.alloc(65_536, 1))
  await writeFile(join(layout.output, 'old.status.json'), JSON.stringify(statusOf(1, { name: 'old' })))
  const log = [
    `${at} agent F Attempt 1 begins.`,
    `${at} stdout F to stdout`,
    `${at} stderr F to stderr \u001b[31mred\u001b[0m \u0007`,
    `${at} stdout F 仮想マシン ${'x'.repeat(100)} the end`,
  ]
  await putJob(layout, jobs[1]!, `${log.join('\n')}\n`)
  await writeFile(
    join(layout.outputJobs, idOf(2), 'result.json'),
    JSON.stringify({
      ...statusOf(2),
      name: 'make',
      error: {
        code: 'exit-code',
        message: 'make ended with exit code 3.',
        hint: 'Read the whole output.',
        phase: 'run',
      },
      phases: [{ name: 'run', duration_ms: 1234 }],
    }),
  )
}

describe('the list of jobs', () => {
  test('on 80×24, with wide and with hostile names; filtered, sorted, searched', async () => {
    await using dir = await tempDir()
    const root = join(dir.path, 's')
    await sampler(root)
    await using p = await tui(dir.path, root)
    const screen = await p.sees('NO AGENT, 5 jobs, 1 running, 1 waiting')
    expect(
      lines(screen)
        .slice(0, 7)
        .map((l) => l.replace(/\d+d\d+h/, (age) => 'AGE'.padStart(age.length))),
    ).toEqual([
      ' vmspool v0.1.0 [Filter: All]  default: NO AGENT, 5 jobs, 1 running, 1 waiting,…',
      '  NAME                  STATUS          AGE  COMMAND OR PROGRESS',
      '> evil�[2J�name         running         AGE  ████░░░░  52 % 220 MiB/s 10 s left…',
      '  仮想マシン-🚀-e\u0301te\u0301     queued          AGE  waiting for job old',
      '  killed                cancelled       AGE  SIGKILL: Cancelled by root.',
      '  make                  failed          AGE  exit code 3: make ended with exit …',
      '  old                   succeeded       AGE',
    ])
    expect(lines(screen)[23]).toBe('Enter details  l log  s stop  r rerun  Tab filter  / search  q quit  ? help')

    for (const [filter, rows] of [
      ['Running', ['evil']],
      ['Exited', ['make', 'old']],
      ['Killed', ['killed']],
    ] as const) {
      await p.keys('Tab')
      const filtered = await p.sees(`[Filter: ${filter}]`)
      expect(
        lines(filtered)
          .slice(2, 22)
          .filter((l) => l !== '')
          .map((l) => l.slice(2, 8).trim().slice(0, 4)),
      ).toEqual(rows.map((r) => r.slice(0, 4)))
    }
    await p.keys('f')
    await p.sees('q queued')
    await p.keys('q')
    await p.sees('[Filter: queued]')
    await p.keys('Tab')
    await p.sees('[Filter: All]')
    await p.keys('o')
    expect(
      lines(await p.sees('sort: name ↑'))
        .slice(2, 7)
        .map((l) => l.slice(2, 6).trim()),
    ).toEqual(['evil', 'kill', 'make', 'old', '仮想マシ'])
    await p.keys('O')
    expect(lines(await p.sees('sort: name ↓'))[2]).toMatch(/^[> ] 仮想マシン/)
    await p.keys('/')
    await p.type('mak')
    await p.sees(/^> make/m)
    await p.sees(/^\/mak$/m)
    await p.keys('Escape')
    await p.losesSight(/^> make/m)
    await p.type('?')
    const help = await p.sees('Keys: Jobs')
    expect(help).toContain(' Ctrl+K          kill: KILL at once')
    await p.keys('Escape')
    await p.sees('[Filter: All]')
  })

  test('at any size, every line within the screen, and the state in words without any colour', async () => {
    await using dir = await tempDir()
    const root = join(dir.path, 's')
    await sampler(root)
    await using p = await tui(dir.path, root, { env: { NO_COLOR: '1' } })
    await p.sees('5 jobs')
    for (const [columns, rows, wanted] of [
      [200, 40, /^> 01KAZZZZZZ\w+ .* evil.* convert +running/m],
      [40, 8, /^> evil\S+ +running$/m],
      [24, 4, /^> evil\S+ +running$/m],
      [12, 3, /^> evil/m],
      [5, 2, /^ v/m],
      [1, 1, /./],
      [80, 24, /^> evil\S+ +running .* 52 %/m],
    ] as const) {
      await p.resize(columns, rows)
      const screen = lines(await p.sees(wanted)).slice(0, rows)
      for (const l of screen) expect(width(l)).toBeLessThanOrEqual(columns)
      expect(screen[0]).not.toBe('')
    }
    expect(await p.colours()).toEqual([])
    await p.type('q')
    await p.prompt()
    await p.type(`unset NO_COLOR; ${vmspool} tui --root ${root}`)
    await p.keys('Enter')
    await p.sees('5 jobs')
    // how they ended is read after how many there are
    await until('the states have their colours', async () => {
      const seen = await p.colours()
      return seen.includes('\u001b[31m') && seen.includes('\u001b[32m')
    })
  })

  test('a dumb terminal and a locale without UTF-8 get plain ASCII around the names', async () => {
    await using dir = await tempDir()
    const root = join(dir.path, 's')
    await sampler(root)
    await using p = await tui(dir.path, root, { prefix: 'TERM=dumb LC_ALL=C ' })
    const screen = await p.sees('####....  52 %')
    expect(screen).not.toMatch(/[█░…↑↓─]/)
    expect(await p.attributes()).toEqual([])
  })
})

test('details, log and VM of a job', async () => {
  await using dir = await tempDir()
  const root = join(dir.path, 's')
  await sampler(root)
  await using p = await tui(dir.path, root)
  await p.sees('5 jobs')
  await p.type('jjj')
  await p.keys('Enter')
  const details = await p.sees('What to do:')
  for (const text of [
    ' Job make  failed',
    ` ID:              ${idOf(2)}`,
    " Command:         /bin/sh -c 'make all'",
    ' Exit code:       3',
    ' Directory:       /srv',
    ' Code:            exit-code',
    ' What to do:      Read the whole output.',
  ])
    expect(details).toContain(text)
  await p.keys('G')
  await p.sees(' run:             1.2 s'.replace('1.2 s', '1 s'))

  await p.keys('l')
  const log = await p.sees('to stdout')
  expect(lines(log).slice(0, 5)).toEqual([
    expect.stringMatching(/^ Log make {2}01KAZZZZZZ\w+ {2,}failed, 4 lines {2}follow: on/),
    `* ${at} Attempt 1 begins.`,
    '  to stdout',
    '! to stderr red �',
    `  仮想マシン ${'x'.repeat(67)}`,
  ])
  await p.type('lllllll')
  expect(lines(await p.sees('the end'))[4]).toMatch(/^ {2}x+ the end$/)
  await p.type('0/stderr')
  await p.keys('Enter')
  await p.sees('follow: off')
  await p.keys('C-f')
  await p.sees('follow: on')
  await p.keys('Escape')
  await p.sees(' Job make  failed')
  await p.keys('Escape')
  await p.sees(/^> make/m)

  await p.type('2')
  const vms = await p.sees('64 KiB')
  expect(lines(vms)[2]).toMatch(/^> old +1 {2}qcow2 +64 KiB {2}succeeded/)
  await p.type('3')
  await p.sees(/^> default +inactive/m)
  await p.type('1')
  await p.sees(/^> make/m)
})

test('ten thousand jobs: moved through, searched, filtered, counted', {
  timeout: 600_000,
}, async () => {
  await using dir = await tempDir()
  const root = join(dir.path, 's')
  const layout = await emptySpool(root)
  const count = 10_000
  await manyJobs(layout, count)
  await using p = await tui(dir.path, root)
  await p.sees(`> job-${count - 1}`)
  await p.keys('G')
  await p.sees(/> job-0 +succeeded/)
  await p.type('ggG')
  await p.keys('C-u')
  await p.sees(/> job-2[0-2] /)
  await p.sees('10000 jobs, 2000 failed')
  await p.type('/job-4321')
  await p.keys('Enter')
  await p.sees(/> job-4321 +failed/)
  await p.type('ff')
  await p.sees('[Filter: failed]')
  await p.keys('G')
  await p.sees(/> job-1 +failed/)
  // a new one, while we look
  await putJob(layout, statusOf(count + 1, { state: 'failed', name: 'newcomer' }))
  await p.keys('g')
  await p.sees(/^[> ] newcomer +failed/m)
})

describe('without what it needs', () => {
  test('not on a terminal it says so, and what else there is', async () => {
    await using dir = await tempDir()
    await emptySpool(dir.path)
    const ran = await cli(['tui', '--root', dir.path])
    expect(ran).toMatchObject({ code: 2, out: '' })
    expect(ran.err).toMatch(/^vmspool: The terminal UI needs a terminal, and the input is none\. .*vmspool list.*\n$/)
    await using p = await pane(dir.path)
    await p.type(`clear; ${vmspool} tui --root ${dir.path} > out`)
    await p.keys('Enter')
    expect(await p.sees('<2>$')).toContain('vmspool: The terminal UI needs a terminal, and the output is none.')
  })

  test('without a spool it says which and ends', async () => {
    await using dir = await tempDir()
    const ran = await cli(['tui', '--root', join(dir.path, 'none')], { terminal: true })
    expect(ran.code).toBe(73)
    expect(ran.out).toContain('There is no spool "default" below')
    expect(ran.out).not.toContain('\u001b[?1049h')
  })

  test('other commands do not load ink and react', async () => {
    await using dir = await tempDir()
    await emptySpool(dir.path)
    const trace = join(dir.path, 'trace')
    await cli(['list', '--root', dir.path], { env: { NODE_V8_COVERAGE: trace } })
    const { readdir, readFile } = await import('node:fs/promises')
    const files = await readdir(trace)
    expect(files.length).toBeGreaterThan(0)
    const loaded = (await Promise.all(files.map((f) => readFile(join(trace, f), 'utf8')))).join('')
    expect(loaded).toContain(`${home}/src/client/`)
    expect(loaded).not.toMatch(/node_modules\/(ink|react|yoga-layout)\/|\/src\/tui\//)
  })
})

test('whatever was on the screen before, what is drawn over it is what a fresh screen shows', {
  timeout: 600_000,
}, async () => {
  await using dir = await tempDir()
  const root = join(dir.path, 's')
  await sampler(root)
  const layout = layoutOf({ root, instance: 'default' })
  for (let n = 10; n < 60; n++)
    await putJob(
      layout,
      statusOf(n, { name: `${'仮想e\u0301🚀'.repeat(n % 5)}-${n}`, state: n % 2 ? 'failed' : 'succeeded' }),
    )
  await using p = await tui(dir.path, root, { columns: 90, rows: 20 })
  await p.sees('55 jobs')
  const keys = [
    'j',
    'j',
    'C-d',
    'k',
    'G',
    'g',
    'Tab',
    'o',
    'O',
    'Enter',
    'Escape',
    'l',
    'l',
    'h',
    'Escape',
    '2',
    '1',
    '?',
    'Escape',
    '/',
    '5',
    'Enter',
    'n',
    'f',
    'a',
  ]
  let seed = 20260101
  for (let round = 0; round < 8; round++) {
    for (let i = 0; i < 8; i++) {
      seed = (seed * 1103515245 + 12345) % 2 ** 31
      await p.keys(keys[Math.floor((seed / 2 ** 31) * keys.length)]!)
    }
    if (round % 4 === 3) await p.resize(60 + ((round * 13) % 60), 8 + ((round * 5) % 20))
    await p.keys('Escape') // out of a search, in which every key is text
    await allTyped(p)
    const drawn = withoutFoot(await settledScreen(p))
    await p.keys('C-l')
    await allTyped(p)
    expect(withoutFoot(await settledScreen(p)), `round ${round}`).toBe(drawn)
  }
})

/** Whatever was typed has been acted upon: keys are taken in order, and this one is answered in every screen. */
async function allTyped(p: Pane): Promise<void> {
  await until(
    'all keys were taken',
    async () => {
      await p.keys('@')
      return (await p.screen()).includes('@ does nothing here')
    },
    { every_ms: 100 },
  )
}

/** The last line may be a message, which the next key takes away. */
function withoutFoot(screen: string): string {
  const shown = lines(screen.trimEnd()).slice(0, -1).join('\n')
  return shown.replace(/ *\d+d\d+h/g, (age) => 'AGE'.padStart(age.length)) // which go on
}

/** The screen once it has been the same for a while. */
async function settledScreen(p: Pane): Promise<string> {
  let before = ''
  let same = 0
  await until(
    'the screen rests',
    async () => {
      const now = await p.screen()
      same = now === before ? same + 1 : 0
      before = now
      return same >= 5
    },
    { every_ms: 40 },
  )
  return before
}
