/** Keys by name. One read of a terminal may bring several of them, and ink then hands them on as one text. */
import type { Key } from 'ink'

/** A character itself, or: enter esc tab backtab backspace delete up down left right pageup pagedown home end ctrl+a … ctrl+z. */
export type KeyName = string

const named: readonly [keyof Key, KeyName][] = [
  ['upArrow', 'up'],
  ['downArrow', 'down'],
  ['leftArrow', 'left'],
  ['rightArrow', 'right'],
  ['pageUp', 'pageup'],
  ['pageDown', 'pagedown'],
  ['home', 'home'],
  ['end', 'end'],
  ['return', 'enter'],
  ['escape', 'esc'],
  ['backspace', 'backspace'],
  ['delete', 'delete'],
]

export function keysOf(input: string, key: Key): KeyName[] {
  if (key.eventType === 'release') return []
  if (input.length > 1 && !key.ctrl && !key.meta) return [...input].map(keyOfCharacter)
  // Alt has no meaning of its own here. A terminal sends it as Esc in front of the key; so does who types both within one read.
  if (key.meta && (key.escape || key.tab || key.return || key.backspace || input !== '')) {
    return ['esc', ...keysOf(input, { ...key, meta: false })]
  }
  if (key.tab) return [key.shift ? 'backtab' : 'tab']
  for (const [flag, name] of named) if (key[flag] === true) return [name]
  if (key.ctrl && /^[a-z]$/.test(input)) return [`ctrl+${input}`]
  return input === '' || key.ctrl ? [] : [keyOfCharacter(input)]
}

function keyOfCharacter(c: string): KeyName {
  if (c === '\r' || c === '\n') return 'enter'
  if (c === '\t') return 'tab'
  if (c === '\u007f' || c === '\b') return 'backspace'
  if (c === '\u001b') return 'esc'
  const code = c.codePointAt(0)!
  return code >= 1 && code <= 26 ? `ctrl+${String.fromCharCode(code + 96)}` : c
}

/** A key as the help shows it. */
export function keyLabel(key: KeyName): string {
  if (key.startsWith('ctrl+')) return `Ctrl+${key.slice(5).toUpperCase()}`
  const labels: Record<string, string> = {
    enter: 'Enter',
    esc: 'Esc',
    tab: 'Tab',
    backtab: 'Shift+Tab',
    backspace: 'Backspace',
    up: 'Up',
    down: 'Down',
    left: 'Left',
    right: 'Right',
    pageup: 'PgUp',
    pagedown: 'PgDn',
    home: 'Home',
    end: 'End',
  }
  return labels[key] ?? key
}
