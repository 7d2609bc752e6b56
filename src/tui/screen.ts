/** What a screen is, and what it gets from the program around it. */
import type { Place } from '../client/place.ts'
import type { Glyphs } from './glyphs.ts'
import type { KeyName } from './keys.ts'
import type { Line } from './line.ts'

export interface Size {
  columns: number
  rows: number
}

export interface Binding {
  keys: readonly KeyName[]
  /** what it does, for the help */
  what: string
  /** a word for the foot of the screen; without it only the help has it */
  hint?: string
  run(): void
}

/** A part of the program that fills the screen: its top line, and what stands between that and the foot. */
export interface Screen {
  name: string
  title(): Line
  /** at the right of the title; gives way when there is no room */
  aside?(): Line
  /** exactly what is seen: at most `size.rows` lines */
  body(size: Size): Line[]
  bindings: readonly Binding[]
  /** where `/` searches; a screen without it has no search */
  search?: Search
  /** called when it comes (back) to the front, and when it leaves it; what it watches it watches only in between */
  show?(): void
  hide?(): void
}

export interface Search {
  /** goes to the next hit from where we stand, or from `origin`; false when there is none */
  find(text: string, o: { forward: boolean; from: 'origin' | 'next' }): boolean
  /** remembers where the search began, and goes back there */
  begin(): void
  cancel(): void
}

export interface Context {
  version: string
  glyphs: Glyphs
  place(): Place
  size(): Size
  /** something changed that may be on the screen */
  changed(): void
  say(text: string): void
  /** an error for people: as a full sentence on the screen */
  fail(error: unknown): void
  /** asks y or n; only y runs */
  ask(question: string, yes: () => void): void
  choose(question: string, choices: readonly { key: KeyName; label: string; pick(): void }[]): void
  open(screen: Screen): void
  back(): void
  /** to another instance: everything begins anew */
  switchTo(o: { root: string; instance: string }): void
  quit(): void
  /** the text that was searched for last */
  searched(): string
}
