/** All ops. One module per op or family; importing a name pulls in only what it needs. */
export * from './reshape.ts';
export * from './unary.ts';
