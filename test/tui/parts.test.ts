// The parts of the terminal UI that need no terminal.
import type { Key } from 'ink'
import { describe, expect, test } from 'vitest'
import { logLines, shown } from '../../src/tui/data/log-lines.ts'
import { listeningSockets, masked } from '../../src/tui/data/process.ts'
import { ghostFilters, orders, selection, stateFilters } from '../../src/tui/data/selection.ts'
import { bar, glyphsFor } from '../../src/tui/glyphs.ts'
import { keyLabel, keysOf } from '../../src/tui/keys.ts'
import { ansi, fitLine, spread } from '../../src/tui/line.ts'
import { listControl } from '../../src/tui/list.ts'
import { detailOf, headOf, rowOf } from '../../src/tui/views/job-columns.ts'
import { logParser } from '../../src/process/log-format.ts'
import { width } from '../../src/text/width.ts'
import { statusOf } from './synthetic.ts'

const utf8 = glyphsFor({ LANG: 'C.UTF-8' })
const ascii = glyphsFor({ LANG: 'C' })
const text = (l: readonly { text: string }[]): string => l.map((s) => s.text).join('')

describe('keys', () => {
  const none = Object.fromEntries(
    ['ctrl', 'meta', 'shift', 'tab', 'return', 'escape'].map((k) => [k, false]),
  ) as unknown as Key
  test.each([
    ['j', {}, ['j']],
    ['G', { shift: true }, ['G']],
    ['d', { ctrl: true }, ['ctrl+d']],
    ['', { return: true }, ['enter']],
    ['', { tab: true, shift: true }, ['backtab']],
    ['', { upArrow: true }, ['up']],
    ['jjk\r', {}, ['j', 'j', 'k', 'enter']], // typed faster than we read
    ['\u0004\u0004\u000b', {}, ['ctrl+d', 'ctrl+d', 'ctrl+k']],
    ['仮', {}, ['仮']],
    ['k', { ctrl: true, meta: true }, ['esc', 'ctrl+k']], // Esc and a key in one read
    ['', { escape: true, meta: true }, ['esc', 'esc']],
    ['', { upArrow: true, meta: true }, ['up']],
    ['\u0001\u007f', {}, ['ctrl+a', 'backspace']],
  ])('%j %j', (input, flags, keys) => expect(keysOf(input, { ...none, ...flags })).toEqual(keys))

  test('as the help names them', () => {
    expect(['ctrl+k', 'enter', 'G', 'pagedown'].map(keyLabel)).toEqual(['Ctrl+K', 'Enter', 'G', 'PgDn'])
  })
})

describe('lines', () => {
  test('fit any screen', () => {
    const l = [{ text: '仮想マシン' }, { text: ' web' }]
    for (let cells = 0; cells < 20; cells++) expect(width(text(fitLine(l, cells, utf8)))).toBe(cells)
    expect(text(fitLine(l, 14, utf8))).toBe('仮想マシン web')
    expect(text(fitLine(l, 12, utf8))).toBe('仮想マシン …')
    expect(text(fitLine(l, 10, ascii))).toBe('仮想マシ ~')
  })

  test('the right part gives way', () => {
    expect(text(spread([{ text: 'left' }], [{ text: 'right' }], 20, utf8))).toBe('left           right')
    expect(text(spread([{ text: 'left' }], [{ text: 'something long' }], 15, utf8))).toBe('left  somethin…')
    expect(text(spread([{ text: 'left' }], [{ text: 'right' }], 8, utf8))).toBe('left    ')
  })

  test('colours and attributes can be left out', () => {
    const l = [
      { text: 'failed', paint: 'red' },
      { text: '!', paint: 'bold' },
    ] as const
    expect(ansi(l, { colour: true, attributes: true })).toBe('\u001b[31mfailed\u001b[39m\u001b[1m!\u001b[22m')
    expect(ansi(l, { colour: false, attributes: true })).toBe('failed\u001b[1m!\u001b[22m')
    expect(ansi(l, { colour: false, attributes: false })).toBe('failed!')
  })

  test('bars, fine or of ASCII', () => {
    expect(bar(52, 8, utf8)).toBe('████░░░░')
    expect([-1, 0, 99, 101].map((n) => bar(n, 4, ascii))).toEqual(['....', '....', '####', '####'])
    expect(glyphsFor({ LC_ALL: 'de_DE.UTF-8', TERM: 'dumb' })).toBe(ascii)
    expect(glyphsFor({ LC_ALL: '', LC_CTYPE: 'POSIX', LANG: 'C.UTF-8' })).toBe(ascii)
  })
})

describe('the columns of the list of jobs', () => {
  const running = statusOf(1, {
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
  })

  test('never are wider than the screen, and the state can be read from 24 cells on', () => {
    for (let columns = 1; columns < 250; columns++) {
      for (const s of [running, statusOf(2, { name: '仮想マシン-with-a-long-name-that-goes-on-and-on-and-on' })]) {
        const row = text(rowOf(s.id, s, true, columns, utf8, Date.now()))
        if (columns >= 24) expect(width(row)).toBeLessThanOrEqual(columns)
        if (columns >= 24) expect(row).toContain(s.state)
        if (columns >= 24) expect(width(text(headOf(columns, utf8)))).toBeLessThanOrEqual(columns)
      }
    }
  })

  test('progress with rate and what is left fits 80 columns', () => {
    expect(text(rowOf(running.id, running, true, 80, utf8, Date.now()))).toContain('████░░░░  52 % 220 MiB/s 10 s left')
  })

  test.each([
    [{ state: 'failed', exit_code: 3, reason: 'It ended badly.\nMore.' }, 'exit code 3: It ended badly.'],
    [{ state: 'cancelled', signal: 'SIGTERM', command: ['sleep', '5'] }, 'SIGTERM: sleep 5'],
    [{ state: 'succeeded', command: ['sleep', '5'] }, 'sleep 5'],
    [{ state: 'running', phase: 'run', command: ['sleep', '5'] }, 'sleep 5'],
    [{ state: 'running', phase: 'inspect' }, 'inspect'],
    [{ state: 'queued', waiting_on: 'job A' }, 'waiting for job A'],
  ] as const)('%j: %s', (more, wanted) => expect(detailOf(statusOf(1, more as object), utf8)).toBe(wanted))
})

describe('filter and order', () => {
  const all = [
    statusOf(5, { state: 'running', name: 'b' }),
    statusOf(4, { state: 'failed', exit_code: 1, name: 'c' }),
    statusOf(3, { state: 'failed', signal: 'SIGKILL', name: 'a' }),
    statusOf(2, { state: 'cancelled', name: 'd' }),
    statusOf(1, { state: 'succeeded', name: 'a' }),
  ]
  const byId = new Map(all.map((s) => [s.id, s]))
  const ids = all.map((s) => s.id)
  const names = (f = ghostFilters[0]!, o = orders[0]!, turned = false): string =>
    selection(ids, (id) => byId.get(id), f, o, turned)
      .map((id) => Number.parseInt(id.slice(-1), 32))
      .join('')

  test('all of them, newest first, cost nothing', () => {
    expect(selection(ids, () => undefined, ghostFilters[0]!, orders[0]!, false)).toBe(ids)
  })
  test("Ghost's filters", () =>
    expect(ghostFilters.map((f) => `${f.label} ${names(f)}`)).toEqual([
      'All 54321',
      'Running 5',
      'Exited 41',
      'Killed 32',
    ]))
  test('each state has a filter with a key of its own', () => {
    expect(new Set(stateFilters.map((f) => f.key)).size).toBe(stateFilters.length)
    expect(stateFilters.map((f) => names(f.filter)).join(' ')).toBe('54321 5   5  1 43 2 ')
  })
  test('orders, both ways; equal ones newest first', () => {
    const order = (label: string) => orders.find((o) => o.label === label)!
    expect(names(undefined, order('name'))).toBe('31542')
    expect(names(undefined, order('name'), true)).toBe('24531')
    expect(names(undefined, order('newest'), true)).toBe('12345')
  })
  test('what was not read yet comes last, and passes no filter', () => {
    const some = (id: string) => (id === ids[0] ? undefined : byId.get(id))
    expect(selection(ids, some, ghostFilters[0]!, orders[1]!, false).at(-1)).toBe(ids[0])
    expect(selection(ids, some, ghostFilters[1]!, orders[0]!, false)).toEqual([])
  })
})

describe('moving in a list', () => {
  function made(count: number) {
    let ids = Array.from({ length: count }, (_, i) => `id-${i}`)
    const list = listControl({ ids: () => ids, textOf: (id) => id, changed() {} })
    const press = (key: string) => list.bindings.find((b) => b.keys.includes(key))!.run()
    return { list, press, set: (next: string[]) => (ids = next), ids: () => ids }
  }

  test('what is selected stays selected when others come before it', () => {
    const m = made(20)
    m.list.window(5)
    for (const key of ['j', 'j', 'j', 'j', 'j', 'j']) m.press(key)
    expect(m.list.window(5)).toEqual({ from: 2, ids: ['id-2', 'id-3', 'id-4', 'id-5', 'id-6'], selected: 6 })
    m.set(['new-1', 'new-2', ...m.ids()])
    expect(m.list.selected()).toBe('id-6')
    expect(m.list.window(5)).toEqual({ from: 4, ids: ['id-2', 'id-3', 'id-4', 'id-5', 'id-6'], selected: 8 })
  })

  test('at the top, new ones are seen', () => {
    const m = made(3)
    m.list.window(5)
    m.set(['new', ...m.ids()])
    expect(m.list.window(5)).toEqual({ from: 0, ids: ['new', 'id-0', 'id-1', 'id-2'], selected: 1 })
  })

  test('when it goes, its neighbour is selected; of an empty list nothing is', () => {
    const m = made(3)
    m.press('G')
    m.set(['id-0', 'id-1'])
    expect(m.list.selected()).toBe('id-1')
    m.set([])
    expect(m.list.selected()).toBeUndefined()
    expect(m.list.window(5)).toEqual({ from: 0, ids: [], selected: -1 })
    for (const b of m.list.bindings) b.run()
  })

  test('pages, ends, and a screen that shrinks', () => {
    const m = made(100)
    m.list.window(10)
    m.press('ctrl+d')
    expect(m.list.selected()).toBe('id-10')
    m.press('pagedown')
    m.press('ctrl+u')
    expect(m.list.selected()).toBe('id-10')
    m.press('G')
    expect(m.list.window(10).from).toBe(90)
    expect(m.list.window(3)).toMatchObject({ from: 97, selected: 99 })
    m.press('g')
    expect(m.list.window(3).from).toBe(0)
  })

  test('search goes on from where we stand, round the end, and back', () => {
    const m = made(100)
    m.list.window(10)
    m.list.search.begin()
    expect(m.list.search.find('9', { forward: true, from: 'origin' })).toBe(true)
    expect(m.list.selected()).toBe('id-9')
    expect(m.list.search.find('9', { forward: true, from: 'next' })).toBe(true)
    expect(m.list.selected()).toBe('id-19')
    m.list.search.find('9', { forward: false, from: 'next' })
    m.list.search.find('9', { forward: false, from: 'next' })
    expect(m.list.selected()).toBe('id-99')
    expect(m.list.search.find('none', { forward: true, from: 'next' })).toBe(false)
    m.list.search.cancel()
    expect(m.list.selected()).toBe('id-0')
  })
})

describe('logs', () => {
  const at = '2026-11-21T10:00:00.000Z'
  const linesOf = (raw: string | Buffer, most = 10) => {
    const lines = logLines(most)
    const parser = logParser()
    for (const byte of Buffer.from(raw)) lines.push(parser.push(Buffer.of(byte)))
    lines.push(parser.end())
    return Array.from({ length: lines.length() }, (_, i) => lines.line(i))
  }

  test('streams are told apart, lines that came in parts are put together', () => {
    expect(
      linesOf(
        `${at} agent F begins\n${at} stdout P one \n${at} stderr F oops\n${at} stdout P and \n${at} stdout F two\n${at} stdout P open 仮\n`,
      ),
    ).toEqual([
      { stream: 'agent', text: 'begins', at },
      { stream: 'stdout', text: 'one and two' },
      { stream: 'stderr', text: 'oops' },
      { stream: 'stdout', text: 'open 仮' },
    ])
  })

  test('logs of earlier versions have no marks', () => {
    expect(linesOf(`plain\n${at} vmspool: the agent\nlast`)).toEqual([
      { stream: 'stdout', text: 'plain' },
      { stream: 'agent', text: 'the agent', at },
      { stream: 'stdout', text: 'last' },
    ])
  })

  test('the last ones are kept, and it is said how many went', () => {
    const lines = logLines(1000)
    const parser = logParser()
    for (let i = 0; i < 5000; i++) lines.push(parser.push(Buffer.from(`${at} stdout F line ${i}\n`)))
    expect([lines.length(), lines.dropped(), lines.line(0).text, lines.line(999).text]).toEqual([
      1000,
      4000,
      'line 4000',
      'line 4999',
    ])
  })

  test('memory is bounded also for a line without an end', () => {
    const lines = logLines(1000)
    const parser = logParser()
    for (let i = 0; i < 3000; i++) lines.push(parser.push(Buffer.alloc(65_536, i === 0 ? `${at} stdout F x` : 'x')))
    expect(lines.length()).toBe(1)
    expect(lines.line(0).text.length).toBeLessThan(20_000)
    expect(lines.line(0).text).toMatch(/\(cut here\)$/)
  })

  test.each([
    ['\u001b[31mred\u001b[0m', 'red'],
    ['\u001b]0;title\u0007text', 'text'],
    [' 10 %\r 20 %\r 30 %\r', ' 30 %'],
    ['a\tb', 'a       b'],
    ['bell\u0007\u009b2J', 'bell\ufffd\ufffd2J'],
    ['e\u0301 仮 ❤\ufe0f', 'e\u0301 仮 ❤'],
  ])('%j is shown as %j', (raw, wanted) => expect(shown(raw)).toBe(wanted))
})

describe('processes', () => {
  test('secrets are masked by their names, and passwords in addresses', () => {
    const env = new Map([
      ['PATH', '/bin'],
      ['DB_PASSWORD', 'geheim'],
      ['DB', 'postgres://app:geheim@db:5432/x'],
    ])
    expect(masked(env)).toEqual([
      ['DB', 'postgres://app:********@db:5432/x'],
      ['DB_PASSWORD', '********'],
      ['PATH', '/bin'],
    ])
  })

  test('listening sockets as /proc/net/tcp and tcp6 write them', () => {
    const head = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n'
    const row = (local: string, state: string, inode: number) =>
      `   0: ${local} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000     0        0 ${inode} 1 0000000000000000 100 0 0 10 0\n`
    const table =
      head +
      row('0100007F:1F90', '0A', 1) +
      row('0100007F:1F91', '01', 2) +
      row('00000000000000000000000000000000:0016', '0A', 3) +
      row('B80D0120000000000000000001000000:0050', '0A', 4) +
      row('0000000000000000FFFF00000100007F:0051', '0A', 5)
    expect(listeningSockets(table)).toEqual([
      { address: '127.0.0.1:8080', inode: '1' },
      { address: '[::]:22', inode: '3' },
      { address: '[2001:db8::1]:80', inode: '4' },
      { address: '127.0.0.1:81', inode: '5' },
    ])
  })
})
