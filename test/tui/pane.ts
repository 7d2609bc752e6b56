// A real terminal: a pane of a private tmux server with a shell in it. Screens are compared as text.
import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect } from 'vitest'
import { until } from '../support/wait.ts'

const exec = promisify(execFile)
/** Bounds a wait on a machine that is busy. */
const deadline_ms = Number(process.env.TUI_DEADLINE_MS ?? 200_000)

export interface Pane extends AsyncDisposable {
  /** lines of the screen without trailing blanks, joined */
  screen(): Promise<string>
  /** types; names as tmux knows them: Enter, Escape, Tab, C-c, … */
  keys(...names: string[]): Promise<void>
  /** types characters as they are */
  type(text: string): Promise<void>
  /** waits until the screen has this; gives the screen */
  sees(what: string | RegExp): Promise<string>
  /** waits until the screen has it no more */
  losesSight(what: string | RegExp): Promise<string>
  resize(columns: number, rows: number): Promise<void>
  /** the foreground process of the pane, as long as it is not the shell */
  program(): Promise<number>
  /** kills the terminal under whatever runs in it */
  close(): Promise<void>
  /** waits for the shell's prompt, and says with which exit code the last command ended */
  prompt(): Promise<number>
  modes(): Promise<{ alternate: boolean; cursor: boolean; wrap: boolean }>
  /** the colours on the screen, as the sequences that make them */
  colours(): Promise<string[]>
  /** those, and bold, inverse and their like */
  attributes(): Promise<string[]>
  /** all settings of the terminal's line, as stty -g gives them */
  line(): Promise<string>
}

/** @param dir a private folder for the socket; short, since a socket's path is */
export async function pane(
  dir: string,
  o: { columns?: number; rows?: number; env?: NodeJS.ProcessEnv; cwd?: string } = {},
): Promise<Pane> {
  const socket = join(dir, 't')
  const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: 'C.UTF-8', ...o.env }
  for (const name of ['TMUX', 'TMUX_PANE', 'NO_COLOR', 'VITEST']) if (!o.env?.[name]) delete env[name]
  const tmux = async (...args: string[]): Promise<string> =>
    (await exec('tmux', ['-S', socket, '-u', '-f', '/dev/null', ...args], { env })).stdout
  const size = ['-x', String(o.columns ?? 80), '-y', String(o.rows ?? 24)]
  const rc = join(dir, 'rc')
  await writeFile(rc, "PS1='<$?>$ '\nunset HISTFILE\n")
  const shell = `exec bash --noprofile --rcfile ${rc}`
  await tmux('new-session', '-d', ...size, '-c', o.cwd ?? dir, shell, ';', 'set', '-g', 'escape-time', '0')
  const server = Number(await tmux('display-message', '-p', '#{pid}'))
  const look = (format: string): Promise<string> => tmux('display-message', '-p', format).then((s) => s.trimEnd())

  const p: Pane = {
    async screen() {
      const text = await tmux('capture-pane', '-p')
      return text
        .split('\n')
        .map((l) => l.trimEnd())
        .join('\n')
    },
    keys: (...names) => tmux('send-keys', ...names).then(() => {}),
    type: (text) => tmux('send-keys', '-l', text).then(() => {}),
    async sees(what) {
      let screen = ''
      await until(
        `the screen shows ${what}`,
        async () => {
          const before = screen
          screen = await p.screen()
          // twice the same: one may be looked at while it is drawn
          return screen === before && (typeof what === 'string' ? screen.includes(what) : what.test(screen))
        },
        { every_ms: 30, deadline_ms, also: () => screen },
      )
      return screen
    },
    async losesSight(what) {
      let screen = ''
      await until(
        `the screen shows ${what} no more`,
        async () => {
          screen = await p.screen()
          return !(typeof what === 'string' ? screen.includes(what) : what.test(screen))
        },
        { every_ms: 30, deadline_ms, also: () => screen },
      )
      return screen
    },
    resize: (columns, rows) => tmux('resize-window', '-x', String(columns), '-y', String(rows)).then(() => {}),
    async program() {
      const shellPid = await look('#{pane_pid}')
      const found = await exec('ps', ['-o', 'pid=', '--ppid', shellPid])
      return Number(found.stdout.trim().split('\n')[0])
    },
    close: () => tmux('kill-pane').then(() => {}),
    async prompt() {
      const screen = await p.sees(/<\d+>\$\s*$/)
      return Number(/<(\d+)>\$\s*$/.exec(screen)![1])
    },
    async modes() {
      const [alternate, cursor, wrap] = (await look('#{alternate_on} #{cursor_flag} #{wrap_flag}')).split(' ')
      return { alternate: alternate === '1', cursor: cursor === '1', wrap: wrap === '1' }
    },
    async colours() {
      return (await p.attributes()).filter((s) => /[[;](3[0-8]|4[0-8]|9\d|10\d)[;m]/.test(s))
    },
    async attributes() {
      const text = await tmux('capture-pane', '-p', '-e')
      // biome-ignore lint/suspicious/noControlCharactersInRegex: SGR sequences
      return [...new Set(text.match(/\u001b\[[\d;]*m/g) ?? [])]
    },
    async line() {
      const tty = await look('#{pane_tty}')
      return (await exec('stty', ['-F', tty, '-g'])).stdout.trim()
    },
    async [Symbol.asyncDispose]() {
      await tmux('kill-server').catch(() => {}) // its last pane may have been closed, and it with that
      await until('the terminal is gone', () => {
        try {
          process.kill(server, 0)
          return false
        } catch {
          return true
        }
      })
    },
  }
  try {
    await p.prompt()
    return p
  } catch (error) {
    await p[Symbol.asyncDispose]()
    throw error
  }
}

/** What a terminal that a program has left must be like. */
export async function expectClean(p: Pane, line: string): Promise<void> {
  expect(await p.modes()).toEqual({ alternate: false, cursor: true, wrap: true })
  await until('the line is as it was', async () => (await p.line()) === line)
}
