/**
 * The program without its terminal: a stack of screens, one question or search at a time, and what a key does. `frame` gives the
 * whole screen as lines, `key` takes what was typed; nothing else goes in or out.
 */
import { wrap } from '../text/width.ts'
import { explained } from './explain.ts'
import type { Glyphs } from './glyphs.ts'
import { type KeyName, keyLabel } from './keys.ts'
import { helpScreen } from './views/help.ts'
import { fitLine, type Line, line, spread } from './line.ts'
import type { Binding, Context, Screen, Size } from './screen.ts'

export interface Controller {
  context: Context
  frame(size: Size): Line[]
  key(name: KeyName): void
  /** for a search; elsewhere it does nothing */
  paste(text: string): void
  /** replaces all screens */
  reset(first: Screen): void
  close(): void
}

type Prompt =
  | { kind: 'search'; text: string; found: boolean }
  | { kind: 'choose'; question: string; choices: readonly { key: KeyName; label: string; pick(): void }[] }

export interface ControllerOptions {
  version: string
  glyphs: Glyphs
  place: Context['place']
  changed(): void
  quit(): void
  switchTo: Context['switchTo']
  /** keys that every screen has: the views, help, another instance, the end */
  everywhere(context: Context): readonly Binding[]
  /** called when the program ends */
  closed(): void
}

export function controller(o: ControllerOptions): Controller {
  let stack: Screen[] = []
  let prompt: Prompt | undefined
  let message: string | undefined
  let searched = ''
  let size: Size = { columns: 80, rows: 24 }
  const front = (): Screen | undefined => stack.at(-1)

  const context: Context = {
    version: o.version,
    glyphs: o.glyphs,
    place: o.place,
    size: () => size,
    changed: o.changed,
    say(text) {
      message = text
      o.changed()
    },
    fail(error) {
      context.say(explained(error))
    },
    ask(question, yes) {
      prompt = { kind: 'choose', question, choices: [{ key: 'y', label: 'yes', pick: yes }, no] }
      o.changed()
    },
    choose(question, choices) {
      prompt = { kind: 'choose', question, choices }
      o.changed()
    },
    open(screen) {
      front()?.hide?.()
      stack.push(screen)
      screen.show?.()
      o.changed()
    },
    back() {
      if (stack.length < 2) return
      stack.pop()!.hide?.()
      front()!.show?.()
      o.changed()
    },
    switchTo: o.switchTo,
    quit: o.quit,
    searched: () => searched,
  }
  const no = { key: 'n', label: 'no', pick() {} }
  const everywhere: readonly Binding[] = [
    { keys: ['?'], what: 'the keys', hint: 'help', run: help },
    ...o.everywhere(context),
  ]

  function help(): void {
    const screen = front()!
    context.open(helpScreen(context, screen.name, bindingsOf(screen)))
  }

  function find(forward: boolean, from: 'origin' | 'next'): boolean {
    return front()?.search?.find(searched, { forward, from }) ?? false
  }
  const searching: readonly Binding[] = [
    {
      keys: ['/'],
      what: 'search, while typing; Enter keeps the place, Esc goes back',
      hint: 'search',
      run() {
        front()!.search!.begin()
        prompt = { kind: 'search', text: '', found: true }
      },
    },
    { keys: ['n'], what: 'next hit', run: () => again(true) },
    { keys: ['N'], what: 'previous hit', run: () => again(false) },
  ]
  function again(forward: boolean): void {
    if (searched === '') context.say('Nothing was searched for yet: type / and a text.')
    else if (!find(forward, 'next')) context.say(`"${searched}" is nowhere on this screen.`)
  }

  function bindingsOf(screen: Screen): readonly Binding[] {
    const own = [...screen.bindings, ...(screen.search ? searching : [])]
    return [...own, ...everywhere.filter((b) => !own.some((o) => o.keys[0] === b.keys[0]))]
  }

  function keyInSearch(p: Extract<Prompt, { kind: 'search' }>, name: KeyName): void {
    if (name === 'esc' || name === 'ctrl+c') {
      front()?.search?.cancel()
      prompt = undefined
      return
    }
    if (name === 'enter') {
      prompt = undefined
      if (p.text !== '' && !p.found) context.say(`"${p.text}" is nowhere on this screen.`)
      return
    }
    if (name === 'backspace') p.text = [...p.text].slice(0, -1).join('')
    else if (name === 'ctrl+u') p.text = ''
    else if ([...name].length === 1) p.text += name
    else return
    searched = p.text
    if (p.text === '') front()?.search?.cancel()
    p.found = p.text === '' || find(true, 'origin')
  }

  function keyInChoice(p: Extract<Prompt, { kind: 'choose' }>, name: KeyName): void {
    const chosen = p.choices.find((c) => c.key === name)
    if (chosen === undefined && name !== 'esc' && name !== 'ctrl+c' && name !== 'q') return
    prompt = undefined
    chosen?.pick()
  }

  function foot(screen: Screen): Line[] {
    if (prompt?.kind === 'search') {
      return [[{ text: '/' }, ...line(prompt.text), ...(prompt.found ? [] : [{ text: '  (no hit)' }])]]
    }
    if (prompt !== undefined) {
      const keys = prompt.choices.map((c) => `${keyLabel(c.key)} ${c.label}`)
      return wrap(`${prompt.question}  [${keys.join('  ')}]`, size.columns).map((text) => line(text, 'bold'))
    }
    if (message !== undefined) {
      const lines = wrap(message, size.columns)
      const room = Math.max(1, Math.floor(size.rows / 2))
      return lines.slice(0, room).map((text) => line(text, 'bold'))
    }
    return [hints(bindingsOf(screen), size.columns)]
  }

  return {
    context,
    reset(first) {
      front()?.hide?.()
      stack = [first]
      prompt = undefined
      first.show?.()
      o.changed()
    },
    close() {
      front()?.hide?.()
      stack = []
      o.closed()
    },
    key(name) {
      const screen = front()
      if (screen === undefined) return
      const said = message
      message = undefined
      if (prompt?.kind === 'search') keyInSearch(prompt, name)
      else if (prompt !== undefined) keyInChoice(prompt, name)
      else {
        const binding = bindingsOf(screen).find((b) => b.keys.includes(name))
        if (binding !== undefined) binding.run()
        else if (said === undefined && name !== 'esc')
          message = `${keyLabel(name)} does nothing here; ? shows the keys.`
      }
      o.changed()
    },
    paste(text) {
      if (prompt?.kind === 'search') for (const c of text.split('\n')[0]!) keyInSearch(prompt, c)
      else message = 'Pasted text is no keys: nothing was done.'
      o.changed()
    },
    frame(now) {
      size = now
      const screen = front()
      if (screen === undefined || size.rows < 1 || size.columns < 1) return []
      const bottom = foot(screen).slice(0, Math.max(1, size.rows - 1))
      const rows = size.rows - bottom.length - 1
      // On a single row only what was asked or said is worth it, else the title.
      const title = spread(screen.title(), screen.aside?.() ?? [], size.columns, o.glyphs)
      const lines: Line[] = size.rows === 1 ? (prompt || message ? bottom : [title]) : [title]
      if (size.rows > 1) {
        const body = rows > 0 ? screen.body({ columns: size.columns, rows }) : []
        for (let i = 0; i < rows; i++) lines.push(body[i] ?? [])
        lines.push(...bottom)
      }
      return lines.map((l) => fitLine(l, size.columns, o.glyphs))
    },
  }
}

/** As many as have room, those of the screen first; the help is always among them. */
function hints(bindings: readonly Binding[], columns: number): Line {
  const help = '? help'
  let text = ''
  for (const b of bindings) {
    if (b.hint === undefined || b.keys.includes('?')) continue
    const next = `${text}${text === '' ? '' : '  '}${keyLabel(b.keys[0]!)} ${b.hint}`
    if (next.length + 2 + help.length > columns) break
    text = next
  }
  return line(text === '' ? help : `${text}  ${help}`, 'dim')
}
