// However the program ends, the terminal is as it was. (kill -9 cannot be caught.)
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { vmspool } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { expectClean, type Pane, pane } from './pane.ts'
import { emptySpool, putJob, statusOf } from './synthetic.ts'

/** Breaks the program from within when USR2 comes: the name of the one job that is shown is not ASCII, so drawing it calls what is broken. */
const broken = {
  uncaught: `process.on('SIGUSR2', () => { throw new Error('bang') })`,
  rejected: `process.on('SIGUSR2', () => { Promise.reject(new Error('bang')) })`,
  rendering: `process.on('SIGUSR2', () => { String.prototype.toWellFormed = () => { throw new Error('bang') } })`,
  exit: `process.on('SIGUSR2', () => process.exit(5))`,
}

async function open(dir: string, o: { preload?: string; prefix?: string } = {}): Promise<{ p: Pane; line: string }> {
  const layout = await emptySpool(join(dir, 'spool'))
  await putJob(layout, statusOf(1, { name: '仮想マシン' }))
  const env =
    o.preload === undefined ? {} : { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(o.preload)}` }
  const p = await pane(dir, { env })
  try {
    const line = await p.line()
    await p.type(`clear; ${o.prefix ?? ''}${vmspool} tui --root ${layout.root}`)
    await p.keys('Enter')
    await p.sees('> 仮想マシン')
    expect(await p.modes()).toEqual({ alternate: true, cursor: false, wrap: false })
    expect(await p.line()).not.toBe(line)
    return { p, line }
  } catch (error) {
    await p[Symbol.asyncDispose]()
    throw error
  }
}

describe('the terminal is left clean', () => {
  test('q, Ctrl+C, TERM, HUP and INT, one after the other in one terminal', { timeout: 600_000 }, async () => {
    await using dir = await tempDir()
    const { p, line } = await open(dir.path)
    await using _ = p
    const endings: [string, () => Promise<void>, number][] = [
      ['q', () => p.type('q'), 0],
      ['Ctrl+C', () => p.keys('C-c'), 0],
      ['TERM', async () => void process.kill(await p.program(), 'SIGTERM'), 143],
      ['HUP', async () => void process.kill(await p.program(), 'SIGHUP'), 129],
      ['INT', async () => void process.kill(await p.program(), 'SIGINT'), 130],
    ]
    for (const [name, end, code] of endings) {
      if (name !== 'q') {
        await p.keys('Up', 'Enter')
        await p.sees('> 仮想マシン')
      }
      await end()
      expect([name, await p.prompt()]).toEqual([name, code])
      await expectClean(p, line)
      expect(await p.screen()).not.toContain('仮想')
    }
  })

  test.each([
    ['an error that nobody caught', broken.uncaught, 70, 'vmspool: bang (This is an error in vmspool itself'],
    ['a rejection that nobody handled', broken.rejected, 70, 'vmspool: bang (This is an error in vmspool itself'],
    ['an error while drawing', broken.rendering, 70, 'vmspool: bang (This is an error in vmspool itself'],
    ['an exit from anywhere', broken.exit, 5, undefined],
  ])('%s', async (_name, preload, code, text) => {
    await using dir = await tempDir()
    const { p, line } = await open(dir.path, { preload })
    await using _ = p
    process.kill(await p.program(), 'SIGUSR2')
    expect(await p.prompt()).toBe(code)
    await expectClean(p, line)
    if (text !== undefined) expect((await p.screen()).replaceAll('\n', '')).toContain(text)
  })

  test('Ctrl+Z gives the terminal back, fg goes on', async () => {
    await using dir = await tempDir()
    const { p, line } = await open(dir.path)
    await using _ = p
    await p.keys('C-z')
    await p.prompt()
    await expectClean(p, line)
    await p.resize(60, 12)
    await p.type('fg')
    await p.keys('Enter')
    const screen = await p.sees(/> 仮想マシン[\s\S]*\? help\s*$/)
    expect(screen.trimEnd().split('\n')).toHaveLength(12)
    expect(await p.modes()).toEqual({ alternate: true, cursor: false, wrap: false })
    await p.type('q')
    expect(await p.prompt()).toBe(0)
    await expectClean(p, line)
  })
})

test('what is typed while it starts is not on the screen, and counts', async () => {
  await using dir = await tempDir()
  const layout = await emptySpool(join(dir.path, 'spool'))
  await using p = await pane(dir.path)
  // The shell's own echo is what must not shift the first line.
  await p.type(`clear; printf typed; ${vmspool} tui --root ${layout.root}`)
  await p.keys('Enter')
  await p.sees(/^typed/)
  await p.type('2')
  const screen = await p.sees('0 VMs')
  expect(screen.split('\n')[0]).toMatch(/^ vmspool v\S+ VMs +default: 0 VMs$/)
  await p.type('q')
  expect(await p.prompt()).toBe(0)
  expect(await p.screen()).toMatch(/^typed2?<0>\$/)
})

describe('the terminal goes away', () => {
  test.each([
    ['with a hangup', ''],
    ['without a signal: only its input ends', 'setsid -w '],
  ])('%s', async (_name, prefix) => {
    await using dir = await tempDir()
    const { p } = await open(dir.path, { prefix })
    await using _ = p
    const first = await p.program()
    const pid = prefix === '' ? first : await childOf(first)
    await p.close()
    await until('the program has ended', () => {
      try {
        process.kill(pid, 0)
        return false
      } catch {
        return true
      }
    })
  })
})

async function childOf(pid: number): Promise<number> {
  const { readFile } = await import('node:fs/promises')
  return Number((await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim())
}
